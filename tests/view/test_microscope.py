"""The Python side of the microscope: what it hands to the browser, and what lasts without one."""

import base64
import json
import re

import pytest

import smmu_lab as lab
from smmu_lab.view import live

EVIL = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def run():
    scenario = lab.Scenario(workload=lab.unmaps(pages=4, ops=20), smmu=lab.Smmu(ril=False), vcpus=2)
    return lab.simulate(scenario, lab.approach("short-path").but(name=EVIL))


def test_it_hands_over_columns_once(run):
    shown = lab.microscope(run)
    sizes = {"q": 8, "I": 4, "H": 2, "B": 1}
    assert len(shown.record) == sum(sizes[code] * length for _, code, length in shown.parts)
    assert json.loads(json.dumps(shown.about)) == shown.about
    lanes, rings = dict.fromkeys(each["name"] for each in shown.about["lanes"]), shown.about["rings"]
    assert list(lanes)[:3] == ["guest0 vcpu0", "guest0 vcpu1", "guest0 KVM exits"]
    assert rings == [{"name": "guest0.vsmmu0.cmdq", "size": 65536, "guest": "guest0"}]


def test_a_part_says_that_it_is_one(run):
    assert lab.microscope(run).about["note"].startswith("200 commands, ")
    assert lab.microscope(run, commands=100).about["note"].startswith("the first 100 commands, ")


def test_errors_are_marked():
    scenario = lab.Scenario(workload=lab.unmaps(ops=8), fault=lab.Fault(kind="illegal-command", op=3))
    run = lab.simulate(scenario, "batched")
    (stop,) = lab.microscope(run).about["stops"]
    assert stop["times"] == [run.stops[name][0] for name in ("stopped", "told", "handled", "resumed")]


def test_two_outputs(run, monkeypatch):
    said = []
    monkeypatch.setattr(live, "display", lambda bundle, **_: said.append(bundle))
    shown = lab.microscope(run)
    shown._ipython_display_()
    still, alive = said
    assert "<svg" not in still["text/html"]
    assert "<img src=x" not in still["text/html"]
    chart = base64.b64decode(re.search(r'base64,([^"]+)"', still["text/html"])[1]).decode()
    assert chart.count("data-stage") > 20
    assert "CONS covers it" in still["text/plain"]
    assert alive["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.model_id


@pytest.mark.parametrize(("given", "words"), [("run", "a Run"), (None, "a Run")])
def test_it_takes_runs_only(given, words):
    with pytest.raises(lab.InvalidInput, match=words):
        lab.microscope(given)


@pytest.mark.parametrize("commands", [0, 99, 200.0, True, "all", 50_001])
def test_it_takes_so_many_commands(run, commands):
    with pytest.raises(lab.InvalidInput, match="an integer from 100 to 50000"):
        lab.microscope(run, commands=commands)
