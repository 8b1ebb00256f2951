"""Which layout may run what: by hand from the rules, and with the figures of a run of its own."""

import json
from io import StringIO

import pytest
from rich.console import Console

import smmu_lab as lab
from smmu_lab.scenario import approach, approaches
from smmu_lab.scenario.layout import RULES
from smmu_lab.scenario.topology import PRESETS, Topology
from smmu_lab.study import layouts
from smmu_lab.study.layouts import refusals

ROWS = [row.name for row in approaches()]
SCENARIO = lab.Scenario(workload=lab.unmaps(pages=3, ops=10), smmu=lab.Smmu(ril=False))

DECODED = {"per-command", "qemu-today", "batched", "batched-at-sync", "virtio-iommu", "vcmdq-emulated-vmm"}
"""The VMM of these looks at every command, so it can emulate a device and hand over the rest."""
METAL = {"ecmdq", "bare-metal"}
"""Here an emulated device is nobody's, and nobody works on its domain."""
REFUSED = {
    "one-smmu": {},
    "broadcast": dict.fromkeys(("vcmdq", "vcmdq-overlay"), "one-smmu-per-vcmdq"),
    "per-smmu": {},
    "mixed": dict.fromkeys(set(ROWS) - DECODED - METAL, "vmm-reads-all"),
    "grace-8-smmu": {},
}
"""What the thread of March 2023 and RFC v3 say."""


@pytest.fixture(scope="module")
def result():
    return layouts(SCENARIO)


def test_every_preset_meets_every_approach(result):
    assert list(result.outcomes) == ROWS
    assert all(list(outcomes) == list(PRESETS) for outcomes in result.outcomes.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_layout_refuses_it_refuses_by_the_name_of_the_rule(result, preset):
    refused = {name: str(result[name][preset]) for name in ROWS if result[name][preset].refused}
    assert refused == REFUSED[preset]


@pytest.mark.parametrize("name", ["per-command", "short-path", "vcmdq", "vhost-iommu"])
def test_what_runs_has_the_figures_of_its_run(result, name):
    for preset, outcome in result[name].items():
        if outcome.refused:
            continue
        run = lab.simulate(SCENARIO.but(topology=preset), name)
        assert outcome.latency == run.latency.mean
        assert outcome.host == sum(sum(run.issued[what]) for what in ("tlbi", "atc", "syncs")) / len(run.measured)


def test_a_broadcast_costs_what_it_is_and_a_wrong_layout_as_much(result):
    """Three TLBIs, each with a CMD_SYNC, on every SMMU; an instance of its own keeps them to one."""
    host = {preset: outcome.host for preset, outcome in result["qemu-today"].items()}
    assert host == {"one-smmu": 6, "broadcast": 12, "per-smmu": 6, "mixed": 12, "grace-8-smmu": 6}
    latency = {preset: outcome.latency.value for preset, outcome in result["qemu-today"].items()}
    assert latency["one-smmu"] == latency["per-smmu"] == latency["grace-8-smmu"] < latency["broadcast"]


def test_an_emulated_device_behind_a_vsmmu_for_all_sends_its_invalidations_to_every_smmu():
    """What the VMM could have kept to itself."""
    wrong, right = (Topology.preset(name, smmus=4, drives=["emulated"]) for name in ("mixed", "per-smmu"))
    outcomes = layouts(SCENARIO, [wrong, right], ["qemu-today"])["qemu-today"]
    assert (outcomes["mixed"].host, outcomes["per-smmu"].host) == (4 * 6, 0)
    assert outcomes["mixed"].latency.value > 2 * outcomes["per-smmu"].latency.value


def test_each_rule_that_was_met_is_told_once_with_its_sentence_and_an_edge(result):
    rows = result.rules_sheet().rows
    assert [name for name, _, _ in rows] == ["vmm-reads-all", "one-smmu-per-vcmdq"]
    assert [why for _, why, _ in rows] == [RULES[name] for name, _, _ in rows]
    assert [edge for *_, edge in rows] == [
        "topology under native-queue: guest0.vsmmu0 -> virtio0",
        "topology under vcmdq: guest0.vsmmu0 -> smmu0, smmu1",
    ]


def test_on_bare_metal_nobody_works_on_what_nobody_emulates():
    emulated = layouts(SCENARIO, [Topology.preset("per-smmu", drives=["emulated"])], ["ecmdq", "batched"])
    assert str(emulated["ecmdq"]["per-smmu"]) == "no-guest"
    assert emulated.met["no-guest"].edge == "topology under ecmdq: guest0.vcpu0 -> guest0.emulated"


def test_on_bare_metal_an_smmu_has_no_commands_but_its_own():
    """There is nothing to broadcast: the driver knows which SMMU a device is behind."""
    assert {outcome.host for outcome in layouts(SCENARIO, names=["bare-metal"])["bare-metal"].values()} == {3 + 1}


def test_an_outcome_may_break_several_rules():
    both = layouts(SCENARIO, [Topology.preset("broadcast", devices=2)], ["vcmdq"])
    assert str(both["vcmdq"]["broadcast"]) == "one-smmu-per-vcmdq"
    few = layouts(SCENARIO.but({"smmu.sids": 1}), [Topology.preset("broadcast", devices=2)], ["vcmdq"])
    assert str(few["vcmdq"]["broadcast"]) == "one-smmu-per-vcmdq, sids"


def test_a_setting_that_refuses_is_named_too():
    lazy = layouts(SCENARIO.but({"workload.lazy": True}), ["one-smmu"], ["batched", "virtio-iommu"])
    assert str(lazy["virtio-iommu"]["one-smmu"]) == "workload.lazy"
    switching = layouts(SCENARIO.but({"workload.cd_every": 2}), ["one-smmu", "broadcast"], ["batched"])
    assert str(switching["batched"]["broadcast"]) == "workload.cd_every"
    assert switching.met["workload.cd_every"].reason.startswith("2 cannot be where a vSMMU spans several SMMUs")


def test_names_with_words_of_a_message_in_them_change_nothing():
    """An edge is what stands before the last 'breaks the rule'."""
    name = "x breaks the rule 'y': z"
    devices = [{"vsid": 8 + k, "smmu": k} for k in range(2)]
    nasty = Topology(smmus=2, layouts=[{"vsmmus": [{"name": name, "devices": devices}]}])
    (refusal,) = refusals(lab.Scenario(topology=nasty).refuses(approach("vcmdq")))
    assert refusal.name == "one-smmu-per-vcmdq"
    assert refusal.edge == f"topology under vcmdq: guest0.{name} -> smmu0, smmu1"


def test_the_verdict_says_what_each_layout_takes(result):
    """Whatever is shorter: what it refuses, or what is left."""
    assert result.verdict == (
        "On one-smmu, per-smmu, grace-8-smmu every approach; on broadcast refused: vcmdq, vcmdq-overlay; on mixed only "
        "per-command, qemu-today, batched, batched-at-sync, virtio-iommu, vcmdq-emulated-vmm, ecmdq, bare-metal."
    )
    assert layouts(SCENARIO, ["mixed"], ["vcmdq"]).verdict == "On mixed no approach."


def test_it_is_shown_and_given_as_data(result):
    data = json.loads(result.to_json())
    assert data["outcomes"]["vcmdq"]["broadcast"] == {"refused": ["one-smmu-per-vcmdq"]}
    assert data["outcomes"]["qemu-today"]["broadcast"]["host_commands"] == 12
    assert data["refused"]["vmm-reads-all"]["reason"] == RULES["vmm-reads-all"]
    assert Topology(**data["layouts"]["mixed"]) == Topology.preset("mixed")
    assert result._repr_html_().count("<table") == 2
    console = Console(file=StringIO(), width=200)
    console.print(result)
    for text in (str(result), console.file.getvalue(), result._repr_html_()):
        assert "one-viommu-per-domain" not in text
        assert "vmm-reads-all" in text
    assert len(layouts(SCENARIO, ["one-smmu"], ["vcmdq"]).sheets) == 1


@pytest.mark.parametrize(
    ("presets", "names", "problem"),
    [
        ([], ["vcmdq"], "presets: [] is not valid"),
        ("mixed", ["vcmdq"], "presets: 'mixed' is not valid"),
        (["mixd"], ["vcmdq"], "topology.preset 'mixd': unknown; did you mean 'mixed'?"),
        ([3], ["vcmdq"], "presets: 3 is not valid"),
        (["mixed"], [], "approaches: none given"),
        (["mixed"], ["vcmdk"], "approach 'vcmdk': unknown; did you mean 'vcmdq'?"),
        (["mixed", "one-smmu", "mixed"], ["vcmdq"], "presets: 'mixed' is there twice"),
        (["mixed"], ["vcmdq", "vcmdq"], "approaches: 'vcmdq' is there twice"),
    ],
)
def test_what_is_not_valid_is_named(presets, names, problem):
    with pytest.raises(lab.InvalidInput) as raised:
        layouts(SCENARIO, presets, names)
    assert str(raised.value).startswith(problem)


def test_a_scenario_that_can_be_nowhere_is_refused():
    with pytest.raises(lab.InvalidInput, match=r"^workload\.ats_devices: 1 is not valid") as raised:
        layouts(SCENARIO.but({"workload.ats_devices": 1}))
    assert len(raised.value.problems) == 1


def test_a_recorded_guest_runs_where_it_has_one_vsmmu():
    recorded = lab.Scenario(workload=lab.read_trace("nvme_dd_r1m_j1_strict_61").workload())
    outcomes = layouts(recorded, names=["batched"])["batched"]
    assert {preset for preset, outcome in outcomes.items() if not outcome.refused} == {"one-smmu", "broadcast", "mixed"}
    assert str(outcomes["per-smmu"]) == "workload.kind"


def test_progress_is_told_of_what_runs():
    told = []
    layouts(SCENARIO, ["one-smmu", "broadcast"], ["vcmdq", "batched"], told.append)
    assert told == ["vcmdq on one-smmu", "batched on one-smmu", "batched on broadcast"]
