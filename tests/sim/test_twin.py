"""The engine and the textbook are one model: operation by operation, to the nanosecond.

A tie, two independent activities that end at one instant, is decided by a rule in the engine and by simpy's order of
creation in the textbook. So a disagreement is excused if and only if the textbook disagrees with itself when it decides
its ties by lot; costs are drawn large and odd, so that this stays rare.
"""

import heapq
import random
from collections import Counter

import pytest
import simpy

from smmu_lab.scenario import Host, Recorded, Scenario, Smmu, Unmaps, approach, approaches, costs
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.simulate import observed
from smmu_lab.sim.textbook import textbook

ALL = [row.name for row in approaches() if row.front == "smmu-commands"]
VARIANTS = {
    f"{name} {', '.join(f'{column}={value}' for column, value in changes.items())}": approach(name).but(changes)
    for name, changes in (
        ("per-command", {"completion": "msi-word"}),
        ("batched", {"completion": "msi-word"}),
        ("batched-at-sync", {"completion": "msi-word"}),
        ("native-queue", {"completion": "msi-word"}),
        ("short-path", {"completion": "msi-word"}),
        ("short-path", {"busy_poll": 5_000_000}),
        ("short-path", {"worker": "host", "weight": 20}),
        ("short-path", {"worker": "host", "busy_poll": 5_000_000}),
        ("short-path", {"host_group": 5}),
        ("short-path-sync", {"completion": "msi-word"}),
        ("short-path-polled", {"worker": "host"}),
        ("vcmdq-emulated", {"worker": "vm"}),
        ("vcmdq-emulated", {"worker": "host", "weight": 9}),
        ("vhost-iommu", {"completion": "used-ring-irq"}),
        ("vhost-iommu", {"completion": "used-ring-irq", "busy_poll": 5_000_000, "weight": 2}),
        ("vhost-iommu", {"worker": "host", "busy_poll": 5_000_000, "kicks": "always"}),
        ("virtio-iommu", {"completion": "used-ring-irq"}),
        ("vcmdq", {"arbitration": "round-robin"}),
        ("vcmdq", {"execution": "parallel", "vcmdqs": 3}),
        ("vcmdq-overlay", {"arbitration": "round-robin"}),
        ("ecmdq", {"arbitration": "round-robin"}),
        ("ecmdq", {"execution": "parallel", "completion": "msi-word"}),
        ("bare-metal", {"completion": "msi-word"}),
    )
}
TALLY = Counter()
COUNTED = ("exits_vmm", "exits_kernel", "ioctls", "host_syncs", "cons_reads", "wakes", "interrupts", "exposure")
SEEDS = range(40)


class ByLot(simpy.Environment):
    """Which of the timeouts that end at one instant comes first is drawn by lot."""

    def __init__(self, seed):
        super().__init__()
        self.lot = random.Random(seed).random

    def schedule(self, event, priority=simpy.events.NORMAL, delay=0):
        lot = -self.lot() if isinstance(event, simpy.Timeout) and delay else 0
        heapq.heappush(self._queue, (self.now + delay, priority, (lot, next(self._eid)), event))


class Backwards(Clock):
    """Of those who do the same at one instant the last comes first."""

    def turn(self, time, what, party, cause):
        return super().turn(time, what, (1 << 32) - 1 - party, cause)


TICK = 1000  # a nanosecond of the profiles


def random_costs(rng):
    """Each cost between a third and twice its value, odd, in a fine tick."""
    profile = costs(rng.choice(("grace", "n1", "a57")))
    drawn = {name: int(cost.value * TICK * rng.uniform(0.3, 2)) | 1 for name, cost in profile.items()}
    del drawn["atc_timeout"]  # no run without a fault has one
    drawn["relax"] //= rng.choice((1, 100))  # udelay is no cost, and does not scale: short and long waits
    drawn["sync_occ"] = min(drawn["sync_occ"], drawn["t_sync"])
    drawn["vmm_lock"] = min(drawn["vmm_lock"], drawn["exit_user"])
    drawn["hsubmit"] += drawn["mmio_w"]  # the PROD write is a part of it
    # An answer that outlives the next CMD_SYNC's turn completes both at one instant: a tie by construction.
    drawn["atc_rtt"] = drawn["sync_occ"] + rng.randrange(drawn["sync_occ"] + min(drawn["t_tlbi"], drawn["t_atc"]))
    low = drawn["wake"] // 2
    return profile.but(drawn).but(wake={"low": low, "value": drawn["wake"], "high": 3 * low})


def random_scenario(seed, **fixed):
    """Any size, load, feature and machine; `fixed` overrides by dotted path."""
    rng = random.Random(seed)
    load = {"think": TICK * rng.choice((1, 2_000, 20_000, 200_000)) + rng.randrange(1000)}
    if rng.random() < 0.1:
        load = {"think": 0, "rate": rng.randrange(1, 50)}
    scenario = Scenario(
        workload=Unmaps(
            pages=rng.choice((1, 2, 8, 8, 64, 65)),
            ats_devices=rng.choice((0, 0, 1, 3)),
            maps=rng.choice((0, 1, 1, 2)),
            cd_every=rng.choice((0, 0, 1, 2)),
            lazy=rng.random() < 0.1,
            ops=rng.choice((3, 7)),
            **load,
        ),
        smmu=Smmu(
            ril=rng.random() < 0.3, errata=rng.choice(("none", "none", "tlbi-apart", "leaf-apart", "force-sync"))
        ),
        host=Host(worker_cpus=rng.choice((1, 2, 8))),
        guests=rng.choice((1, 1, 1, 1, 2, 2, 2, 2, 3)),
        vcpus=rng.choice((1, 2, 3, 5)),
        costs=random_costs(rng),
        seed=seed,
    )
    return scenario.but(fixed)


def possible(scenario, row):
    """The scenario without what the approach refuses, and without a tie that it makes."""
    if row.completion == "msi-word":  # the words of one drain are written at one instant, and what follows has no gap
        scenario = scenario.but({"workload.ats_devices": 0})
    if row.front == "virtio-iommu":
        scenario = scenario.but({"workload.lazy": False, "workload.cd_every": 0})
    return scenario.but({"smmu.errata": "none"}) if scenario.refuses(row) else scenario


def engine(scenario, row, clock=Clock):
    """The outcome of the engine, in the textbook's form."""
    run = observed(scenario, row, clock())
    number = Counter()
    ops = set()
    for op, latency in zip(run.ops.rows(), run.latencies, strict=True):
        who = op["guest"], op["vcpu"]
        ops.add((*who, number[who], op["start"], latency))
        number[who] += 1
    return ops, {name: getattr(run.counts, name) for name in COUNTED}


def by_the_book(scenario, row, env=None):
    done = textbook(scenario, row, env)
    return set(done.ops), {name: done.counts[name] for name in COUNTED}


def agree(scenario, row):
    """Whether the twins agree; None if that hangs on a tie."""
    expected = by_the_book(scenario, row)
    actual = engine(scenario, row)
    if actual == expected:
        return True
    tied = engine(scenario, row, Backwards) != actual
    return None if tied or any(by_the_book(scenario, row, ByLot(seed)) != expected for seed in range(20)) else False


def check(row, scenarios):
    verdicts = {number: agree(possible(scenario, row), row) for number, scenario in enumerate(scenarios)}
    different = [number for number, verdict in verdicts.items() if verdict is False]
    assert not different, f"{row.name}: engine and textbook differ in scenarios {different}"
    TALLY["runs"] += len(verdicts)
    TALLY["tied"] += sum(verdict is None for verdict in verdicts.values())


@pytest.mark.parametrize("row", approaches(), ids=lambda row: row.name)
def test_engine_and_textbook_agree(row):
    check(row, map(random_scenario, SEEDS))


@pytest.mark.parametrize("row", VARIANTS.values(), ids=VARIANTS)
def test_they_agree_on_every_column(row):
    check(row, map(random_scenario, range(1000, 1020)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("guests", "vcpus"), [(1, 1), (1, 2), (2, 2)])
def test_they_agree_when_queues_are_full(name, guests, vcpus):
    """Of the guests and of the host. Not covered: three CPUs that watch one queue while others fill it up again."""
    full = {"smmu.queue_log2": 7, "smmu.host_queue_log2": 7, "smmu.ril": False, "workload.pages": 200}
    size = {"workload.ops": 3, "guests": guests, "vcpus": vcpus, "costs.relax": 20_011}
    check(approach(name), (random_scenario(seed, **full, **size) for seed in range(12)))


@pytest.mark.parametrize("name", ALL)
def test_they_agree_on_a_recorded_guest(name):
    recorded = Recorded(trace="noril_nvme_fio_rw16k_d8_j4_strict_61", think=TICK * 20_001, spread="exponential", ops=20)
    check(approach(name), (Scenario(workload=recorded, costs=random_costs(random.Random(seed))) for seed in range(3)))


def test_they_agree_with_constant_wakes():
    check(approach("short-path").but(wake="constant"), map(random_scenario, range(20)))


def test_at_most_one_run_in_a_hundred_hangs_on_a_tie(capsys):
    """Of all that ran above. Left out from the start: ATS with MSI words, where ties are the rule (see `possible`)."""
    with capsys.disabled():
        print(f"\ntwin: {TALLY['runs']:,} runs compared, {TALLY['tied']} hang on a tie")
    assert TALLY["tied"] <= max(1, TALLY["runs"] // 100)
