"""The notebook of a presentation: a scenario reaches it as data, whatever its names are."""

import nbformat

import smmu_lab as lab
from smmu_lab.view.present import write


def test_no_name_is_taken_for_code(tmp_path, monkeypatch):
    folder = tmp_path / 'a "b" \'c\' """\n{x}\\'
    folder.mkdir()
    monkeypatch.chdir(folder)
    scenario = lab.Scenario(workload=lab.unmaps(pages=3, ops=8), vcpus=2, topology="per-smmu")
    book = nbformat.read(write(folder, scenario, ["vcmdq", "batched"], "batched"), as_version=4)
    nbformat.validate(book)
    shown = {}
    for cell in book.cells:
        exec(cell.source, shown)  # our own
        assert shown["scenario"] == scenario
    assert [cell.metadata.view for cell in book.cells] == ["Explorer", "Microscope"]
