"""The Python side of the dashboard: what it shows of a comparison, and what it answers when rows are hidden."""

import json
import re

import attrs
import pytest

import smmu_lab as lab
from smmu_lab.charts import breakdown, differences, distribution, events, percentiles
from smmu_lab.view import live
from smmu_lab.view.panels import PANELS

NAMES = ["qemu-today", "short-path", "vcmdq"]
EVIL = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def comparison():
    scenario = lab.Scenario(workload=lab.unmaps(pages=8, ops=60), smmu=lab.Smmu(ril=False), vcpus=4)
    return lab.compare(scenario, NAMES)


def fragments(panels):
    for html in panels.values():
        yield from html.values() if isinstance(html, dict) else [html]


def test_panels_are_the_charts_of_the_comparison(comparison):
    shown = lab.dashboard(comparison)
    panels, samples = shown.shown["panels"], comparison.samples
    assert list(panels) == list(PANELS)
    row = {"row": 30}
    assert panels["breakdown"].startswith(breakdown(samples, 860, row))
    for scale in ("log", "linear"):
        assert panels["distribution"][scale].startswith(distribution(samples, 860, log=scale == "log"))
        assert panels["percentiles"][scale].startswith(percentiles(samples, 860, row, log=scale == "log"))
    for base in NAMES:
        saved = {name: comparison.difference(base, name) for name in NAMES}
        assert panels["differences"][base].startswith(differences(saved, base, comparison.noun, 860, row))
    assert panels["events"].startswith(events(samples, 860, {"row": 22}))


def test_what_is_hidden_is_not_drawn_and_the_scale_follows(comparison):
    shown = lab.dashboard(comparison)
    before = shown.shown["panels"]["breakdown"]
    shown.setting = {"hidden": ["qemu-today", "unheard-of"]}
    assert shown.shown["setting"] == shown.setting
    for html in fragments(shown.shown["panels"]):
        assert re.findall(r'data-approach="([^"]+)"', html) == ["short-path", "vcmdq"]
    widest = [max(map(float, re.findall(r'width="([\d.]+)" height="20"', html))) for html in
              (before, shown.shown["panels"]["breakdown"])]  # fmt: skip
    assert widest[1] > widest[0] / 2
    shown.setting = {"hidden": NAMES}
    assert set(fragments(shown.shown["panels"])) == {""}
    shown.setting = {"hidden": []}
    assert shown.shown["panels"]["breakdown"] == before


def test_a_new_width_draws_anew_and_no_width_is_absurd(comparison):
    shown = lab.dashboard(comparison)
    shown.width = 540
    assert all('class="smmu-lab" width="540"' in html for html in fragments(shown.shown["panels"]))
    shown.width = -5
    assert all('class="smmu-lab" width="480"' in html for html in fragments(shown.shown["panels"]))


def test_facts_are_those_of_the_comparison_and_of_the_costs(comparison):
    facts = lab.dashboard(comparison).facts
    assert facts["verdict"] == comparison.verdict
    assert facts["reference"] == comparison.baseline
    assert set(facts["costs"]) == set(comparison.scenario.costs)
    cost = facts["costs"]["exit_user"]
    assert (cost["value"], cost["range"], cost["basis"]) == ("1.43 µs", "1.1 µs .. 1.77 µs", "inferred")
    assert cost["source"] == comparison.scenario.costs["exit_user"].source
    for name, stages in facts["made"].items():
        assert set(stages) == {stage for stage, ns in comparison.samples[name].breakdown.items() if ns}
    assert facts["made"]["qemu-today"]["doorbell"]["own"] == [["exit_user", "100%"]]
    assert "vmm_lock" in facts["made"]["qemu-today"]["lock"]["ahead"]
    assert "one vCPU alone" in facts["alone"]
    json.dumps(facts)


def test_names_are_never_markup():
    scenario = lab.Scenario(
        workload=lab.unmaps(ops=30), costs=lab.costs("n1").but(exit_kernel={"source": EVIL, "meaning": EVIL})
    )
    rows = [lab.approach("batched").but(name=EVIL, title=EVIL), "short-path"]
    shown = lab.dashboard(lab.compare(scenario, rows))
    for html in (*fragments(shown.shown["panels"]), shown.lasting()[0]):
        assert "<img src=x" not in html
    assert any("onerror=alert" in html for html in fragments(shown.shown["panels"]))  # as text


def test_two_outputs(comparison, monkeypatch):
    said = []
    monkeypatch.setattr(live, "display", lambda bundle, **_: said.append(bundle))
    shown = lab.dashboard(comparison)
    shown._ipython_display_()
    still, alive = said
    assert f'data-picture="{shown.picture}"' in still["text/html"]
    assert still["text/html"].count('<img src="data:image/svg+xml;base64,') == len(PANELS)
    assert "<svg" not in still["text/html"]
    assert comparison.verdict in still["text/plain"]
    assert "exits to VMM" in still["text/plain"]
    assert alive["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.model_id


def test_warnings_are_shown(comparison):
    warned = attrs.evolve(comparison, precision=0.000001)
    assert warned.warnings
    assert tuple(lab.dashboard(warned).facts["warnings"]) == warned.warnings


def test_anything_else_is_refused(comparison):
    with pytest.raises(lab.InvalidInput, match=r"comparison: 'Run' is not valid: a result of lab\.compare"):
        lab.dashboard(comparison.runs["vcmdq"])


@pytest.mark.parametrize("hidden", [None, 5, "vcmdq", [1]])
def test_what_is_no_list_of_names_is_refused_and_changes_nothing(comparison, hidden):
    shown = lab.dashboard(comparison)
    with pytest.raises(lab.InvalidInput, match="a list of names of approaches"):
        shown.setting = {"hidden": hidden}
    assert shown.setting == {"hidden": []}
