"""The Python side of the explorer: what it answers to a setting."""

import base64
import re
import subprocess
import sys

import attrs
import nbclient
import nbformat
import pytest
from nbconvert import HTMLExporter

import smmu_lab as lab
from smmu_lab.charts import breakdown
from smmu_lab.view import explorer, live
from smmu_lab.view.explorer import BUDGET, FEWEST, FLUSH, PER_COMMAND, PER_UNMAP, affordable

EVIL = '"><img src=x onerror=alert(1)>'


@pytest.fixture
def wide():
    return lab.Scenario(workload=lab.unmaps(pages=16), smmu=lab.Smmu(ril=False), vcpus=4)


def test_charts_need_no_widget_library(tmp_path):
    program = """
import sys, smmu_lab as lab
from smmu_lab.charts import breakdown
breakdown({"vcmdq": lab.simulate(lab.Scenario(workload=lab.unmaps(ops=1)), "vcmdq")})
lab.explore
print(*sys.modules)
"""
    fresh = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert {"anywidget", "ipywidgets", "traitlets", "IPython"} & set(fresh.stdout.split()) == set()


def test_the_picture_is_what_simulate_says(wide):
    shown = lab.explore(wide, ["batched", "vcmdq"])
    for change in ({}, {"workload.pages": 64}, {"smmu.ril": True, "vcpus": 2}, {"costs": "n1"}):
        shown.setting = change
        asked = affordable(wide.but(change), 2)
        warmup = shown.comparison.warmup
        runs = {name: attrs.evolve(lab.simulate(asked, name), dropped=warmup) for name in ("batched", "vcmdq")}
        state = {"pages": asked.workload.pages, "ril": asked.smmu.ril, "vcpus": asked.vcpus}
        state |= {"costs": asked.costs.profile, "operations": asked.workload.ops * asked.vcpus}
        assert breakdown(runs, 860, state) in shown.shown["html"]
        assert shown.shown["setting"] == shown.setting
        assert shown.comparison.scenario == asked
        assert f"{asked.workload.ops * asked.vcpus} simulated unmaps" in shown.shown["html"]


def test_a_new_width_simulates_nothing(wide, monkeypatch):
    shown = lab.explore(wide, ["vcmdq"])
    monkeypatch.setattr(explorer, "compare", None)
    shown.width = 700
    assert '<svg xmlns="http://www.w3.org/2000/svg" class="smmu-lab" width="700"' in shown.shown["html"]
    shown.width = -5
    assert 'width="480"' in shown.shown["html"]


@pytest.mark.parametrize("pages", [1, 16, 511, 512])
@pytest.mark.parametrize("vcpus", [1, 16])
def test_the_budget_is_kept(wide, pages, vcpus):
    load = affordable(wide.but({"workload.pages": pages, "vcpus": vcpus}), 6).workload
    commands = 1 if pages == 512 else pages
    cost = load.ops * vcpus * (6 * PER_UNMAP + commands * PER_COMMAND)
    assert cost <= BUDGET or load.ops == FEWEST
    assert load.ops >= FEWEST


def test_never_more_than_asked_and_enough_for_a_flush(wide):
    assert affordable(wide.but({"workload.ops": 3}), 6).workload.ops == 3
    assert affordable(wide.but({"workload.lazy": True, "vcpus": 16}), 6).workload.ops == FLUSH


def test_errors_are_words_and_pass(wide):
    shown = lab.explore(wide, ["vcmdq"])
    shown.setting = {"workload.pages": 0, "vcpus": "many", "smmu.rill": True}
    assert shown.shown["html"] == ""
    assert shown.shown["error"].splitlines() == [
        "workload.pages: 0 is not valid: a positive integer",
        "smmu.rill: unknown; did you mean 'ril'?",
        "vcpus: 'many' is not valid: an integer from 1 to 1024",
    ]
    shown.setting = {}
    assert shown.shown["error"] == ""
    assert "<svg" in shown.shown["html"]


def test_a_bug_is_said_in_place(wide, monkeypatch):
    def broken(*_):
        raise RuntimeError("lost a wrap bit")

    shown = lab.explore(wide, ["vcmdq"])
    monkeypatch.setattr(explorer, "compare", broken)
    shown.setting = {"vcpus": 3}
    assert shown.shown["error"] == "This setting could not be simulated: RuntimeError: lost a wrap bit"


def test_what_it_refuses():
    with pytest.raises(lab.InvalidInput, match="did you mean 'short-path'"):
        lab.explore(approaches=["shortpath"])
    with pytest.raises(lab.InvalidInput, match="recorded guest"):
        lab.explore(lab.Scenario(workload={"kind": "recorded", "trace": next(iter(lab.traces()))}))


def test_costs_of_your_own_stay_a_choice(wide):
    shown = lab.explore(wide.but(costs=lab.costs("n1").but(exit_kernel="9us")), ["short-path"])
    assert shown.setting["costs"] == "n1*"
    assert shown.comparison.scenario.costs.exit_kernel == 9000
    shown.setting = {"costs": "grace"}
    assert shown.comparison.scenario.costs == lab.costs("grace")
    assert [name for name, _ in shown.choices["costs"]] == ["grace", "n1", "a57", "n1*"]


def test_odd_sizes_get_a_place_on_the_slider():
    assert [63, "252 KiB"] in lab.explore(lab.Scenario(workload=lab.unmaps(pages=63)), ["vcmdq"]).choices["pages"]


def test_names_are_never_markup(wide):
    shown = lab.explore(wide, [lab.approach("batched").but(name=EVIL, title=EVIL)])
    assert "<img" not in shown.shown["html"]
    assert "onerror=alert" in shown.shown["html"]  # as text


def test_two_outputs(wide, monkeypatch):
    said = []
    monkeypatch.setattr(live, "display", lambda bundle, **_: said.append(bundle))
    shown = lab.explore(wide, ["batched", "vcmdq"])
    shown._ipython_display_()
    still, alive = said
    assert f'data-picture="{shown.picture}"' in still["text/html"]
    assert "<svg" not in still["text/html"]  # it would become a heap of words in an untrusted notebook
    source = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', still["text/html"])[1]
    assert base64.b64decode(source).decode() in shown.shown["html"]
    assert re.search(r"mean +p99", still["text/plain"])
    assert alive["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.model_id


def test_nbconvert_shows_the_picture_and_a_text_reader_its_figures():
    cell = nbformat.v4.new_code_cell("import smmu_lab as lab\nlab.explore(approaches=['batched', 'vcmdq'])")
    book = nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3").execute()
    still, _live = book.cells[0].outputs
    assert "execute" in still.data["text/plain"]
    assert "simulated unmaps" in still.data["text/plain"]
    page, _ = HTMLExporter().from_notebook_node(book)
    assert 'src="data:image/svg+xml;base64,' in page
    assert 'alt="Mean latency of one unmap by stage: batched' in page
