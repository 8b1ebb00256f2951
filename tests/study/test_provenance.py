"""What a stage is said to be made of is held to experiments, under every approach of the catalogue."""

import pytest

import smmu_lab as lab
from smmu_lab.study.compare import costs_of
from smmu_lab.study.provenance import OPS, WAITS, alone, made_of

ROWS = lab.approaches()
SCENARIO = lab.Scenario(workload=lab.unmaps(pages=16, ops=40, think="1us"), smmu=lab.Smmu(ril=False))
BUSY = SCENARIO.but(vcpus=4)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_shares_say_how_often_a_cost_is_paid(row):
    """Alone, a stage is a sum: costs times whole numbers; and they are those that the verdict names."""
    run = lab.simulate(alone(SCENARIO), row)
    for stage, made in made_of(run.sample).items():
        assert set(made.own) == set(costs_of(stage, row)), stage
        assert not made.ahead
        shares = list(made.own.values())
        if None in shares:
            assert stage == "complete"
            continue
        assert sum(shares) == pytest.approx(1)
        for cost, share in made.own.items():
            if cost != "wake":  # drawn by lot
                paid = share * run.breakdown[stage] / SCENARIO.costs[cost].value * OPS
                assert paid == pytest.approx(round(paid), abs=0.01), (stage, cost)


def test_shares_agree_with_the_counts():
    run = lab.simulate(alone(SCENARIO), "qemu-today")
    made = made_of(run.sample)
    for stage, cost, count in (("handoff", "ioctl", "ioctls"), ("execute", "t_sync", "host_syncs")):
        paid = made[stage].own[cost] * run.breakdown[stage] / SCENARIO.costs[cost].value
        assert paid == pytest.approx(run.per_operation(count))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_nobody_waits_for_whom_nothing_takes_time(row):
    """With the costs named behind a wait at zero, the wait is gone."""
    run = lab.simulate(BUSY, row)
    waits = {stage: made for stage, made in made_of(run.sample).items() if stage in WAITS and made.ahead}
    for stage, made in waits.items():
        zero = {*made.own, *made.ahead}
        zero |= {part for part, whole in (("sync_occ", "t_sync"), ("vmm_lock", "exit_user")) if whole in zero}
        without = lab.simulate(BUSY.but({f"costs.{cost}": 0 for cost in zero}), row)
        assert without.breakdown[stage] == 0, (stage, zero)


def test_waits_are_explained_where_there_are_any():
    made = {name: made_of(lab.simulate(BUSY, name).sample) for name in ("qemu-today", "vcmdq", "vhost-iommu")}
    assert "vmm_lock" in made["qemu-today"]["lock"].ahead
    assert "sync_occ" in made["vcmdq"]["queue"].ahead
    assert "host_map" in made["vhost-iommu"]["lock"].ahead


@pytest.mark.parametrize(
    "scenario",
    [
        lab.Scenario(workload=lab.unmaps(lazy=True, ops=600)),
        lab.Scenario(workload=lab.unmaps(ats_devices=2, ops=20), guests=2, vcpus=2),
        lab.Scenario(topology="per-smmu", guests=2, vcpus=2, workload=lab.unmaps(ops=20)),
        lab.Scenario(workload={"kind": "recorded", "trace": next(iter(lab.traces()))}),
        lab.Scenario(workload=lab.unmaps(ops=20), costs=lab.costs("grace").but(sync_occ=900, t_sync=900)),
    ],
    ids=["lazy", "ats", "topology", "recorded", "part-as-large-as-its-whole"],
)
def test_every_scenario_has_an_answer(scenario):
    for name in ("qemu-today", "short-path"):
        run = lab.simulate(scenario, name)
        made = made_of(run.sample)
        assert set(made) == {stage for stage, mean in run.breakdown.items() if mean}
        assert all(made[stage].own for stage in ("doorbell", "execute"))
