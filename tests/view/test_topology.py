"""What is shown of a machine: a picture that lasts, the table, the graph, and what limits."""

import base64
import json
import re
from xml.etree import ElementTree

import networkx
import pytest
from rich.console import Console

import smmu_lab as lab
from smmu_lab.charts import layers, layers_sheet
from smmu_lab.study.bounds import bound
from smmu_lab.study.load import bottleneck, loads

EVIL = "\"><script>alert(1)</script>&<b a='"
SCENARIO = lab.Scenario(workload=lab.unmaps(pages=1, ops=50, think=0), vcpus=4, guests=2, topology="per-smmu")


def picture(html):
    """The SVG in the ``<img>``."""
    (coded,) = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]*)"', html)
    return base64.b64decode(coded).decode()


def test_a_scenario_is_shown_as_qemu_of_today_would_serve_it():
    shown = lab.show_topology(SCENARIO)
    assert shown.approach is lab.approach("qemu-today")
    assert shown.graph.number_of_nodes() == lab.simulate(SCENARIO, "qemu-today").graph.number_of_nodes()
    assert not shown.loads
    assert shown.verdict == "8 vCPUs and 6 queues, which 2 VMMs drain; 2 SMMUs."
    assert "limits" not in shown.to_svg()


@pytest.mark.parametrize(
    ("by", "verdict"),
    [
        ("short-path", "8 vCPUs and 6 queues, which 2 VMMs and 4 workers drain; 2 SMMUs."),
        (
            lab.approach("short-path").but(worker="host"),
            "8 vCPUs and 6 queues, which 2 VMMs and 1 worker drain; 2 SMMUs.",
        ),
        ("vcmdq", "8 vCPUs and 14 queues, which 2 VMMs and 4 VINTFs drain; 2 SMMUs."),
    ],
)
def test_or_under_any_approach(by, verdict):
    assert lab.show_topology(SCENARIO, by).verdict == verdict


def test_on_bare_metal_the_smmus_drain_their_queues():
    on_metal = SCENARIO.but(topology="broadcast")
    assert lab.show_topology(on_metal, "bare-metal").verdict == "8 vCPUs and 2 queues; 2 SMMUs."
    assert lab.show_topology(on_metal, "ecmdq").verdict == "8 vCPUs and 16 queues; 2 SMMUs."


def test_a_run_is_shown_with_what_it_asked_and_what_limits():
    run = lab.simulate(SCENARIO, "batched")
    shown = lab.show_topology(run)
    assert shown.loads == loads(run)
    assert shown.bottleneck == bottleneck(run)
    limit = bound([run])
    assert limit.station == "VMM lock"
    assert f"VMM lock ({shown.bottleneck[0]}" in shown.verdict
    assert f"at least {limit.reached:.0%}" in shown.verdict
    assert f"allows {limit.limit:,.0f} operations per second (unmap)" in shown.verdict
    assert f"there were {limit.throughput:,.0f}." in shown.verdict
    assert shown.to_svg() == layers(run.graph, loads(run), bottleneck(run), "\n".join(
        ["per-smmu: 2 SMMUs, 2 guests of 4 vCPUs", f"batched: {run.approach.title}"]))  # fmt: skip


def test_the_vcpus_limit_by_the_time_between_their_operations():
    run = lab.simulate(SCENARIO.but({"workload.think": "1ms", "workload.ops": 3}), "batched")
    assert "vCPUs, with the time between their operations (guest0.vcpu0 and 7 more)" in lab.show_topology(run).verdict


def test_the_picture_lasts_and_the_table_is_folded_behind_it():
    shown = lab.show_topology(lab.simulate(SCENARIO, "batched"))
    html = shown._repr_html_()
    assert picture(html) == shown.to_svg()
    assert ElementTree.fromstring(picture(html)) is not None
    assert "<svg" not in html
    before, folded = html.split("<details>")
    assert "<table" not in before
    assert layers_sheet(shown.graph, shown.loads, shown.bottleneck)._repr_html_() in folded
    assert shown.verdict in re.search(r'alt="([^"]*)"', html)[1]


def test_in_a_terminal_it_is_the_table():
    shown = lab.show_topology(lab.simulate(SCENARIO, "short-path"))
    sheet = layers_sheet(shown.graph, shown.loads, shown.bottleneck)
    assert repr(sheet) in repr(shown)
    assert shown.verdict in repr(shown)
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shown)
    printed = console.export_text()
    assert all(row[0] in printed for row in sheet.rows)
    assert shown.title in printed


def test_as_a_file_and_as_data(tmp_path):
    shown = lab.show_topology(lab.simulate(SCENARIO, "vcmdq"))
    shown.to_graphml(tmp_path / "machine.graphml")
    assert set(networkx.read_graphml(tmp_path / "machine.graphml")) == set(shown.graph)
    assert shown.to_dot().startswith("digraph")
    data = json.loads(shown.to_json())
    assert [node["name"] for node in data["nodes"]] == list(shown.graph)
    smmu = next(node for node in data["nodes"] if node["name"] == "smmu0")
    assert smmu["load"] == {"commands": 200, "busy": shown.loads["smmu0"].busy, "waiting": None}
    assert len(data["edges"]) == shown.graph.number_of_edges()
    assert data["bottleneck"] == list(shown.bottleneck)


def test_names_are_never_markup():
    device = {"vsid": 8, "name": EVIL, "domain": EVIL[::-1]}
    topology = {"name": EVIL, "layouts": [{"vsmmus": [{"devices": [device]}]}]}
    row = lab.approach("batched").but(name=EVIL, title=EVIL)
    html = lab.show_topology(lab.Scenario(topology=topology), row)._repr_html_()
    assert "<script" not in html
    assert "<script" not in picture(html)
    assert set(re.findall(r"<(/?\w+)", html)) <= {
        f"{slash}{tag}"
        for slash in ("", "/")
        for tag in ("p", "b", "img", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td")
    }


def test_bad_input_is_refused_in_words():
    with pytest.raises(lab.InvalidInput, match="what: 7 is not valid: a Scenario or a Run"):
        lab.show_topology(7)
    with pytest.raises(lab.InvalidInput, match="approach 'batchd'"):
        lab.show_topology(SCENARIO, "batchd")
    with pytest.raises(lab.InvalidInput, match="by: 'batched' is not valid: a run has its own approach, vcmdq"):
        lab.show_topology(lab.simulate(SCENARIO, "vcmdq"), "batched")
    with pytest.raises(lab.InvalidInput, match="breaks the rule 'one-smmu-per-vcmdq'"):
        lab.show_topology(SCENARIO.but(topology="broadcast"), "vcmdq")


def test_it_cannot_be_changed():
    shown = lab.show_topology(SCENARIO)
    with pytest.raises(AttributeError):
        shown.verdict = "fine"
