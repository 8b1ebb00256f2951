"""What must hold in every run, whatever the scenario. Where PATHS section 5 has a number for it, it is named."""

import json
from array import array
from collections import Counter, defaultdict
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path

import pytest
import simpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smmu_lab.record import BATCHES, OPS, STAGES, Table
from smmu_lab.scenario import (
    Host,
    InvalidInput,
    Recorded,
    Scenario,
    Smmu,
    Unmaps,
    approach,
    approaches,
    costs,
    read_trace,
)
from smmu_lab.sim import clock, simulate
from smmu_lab.sim.consumer import Lock
from smmu_lab.sim.driver import Work, poll, poll_step
from smmu_lab.sim.kernel import commands, cut
from smmu_lab.sim.queue import CommandQueue, Group
from smmu_lab.sim.smmu import Fifo

ALL = [row.name for row in approaches()]
every_approach = pytest.mark.parametrize("name", ALL)
of_commands = pytest.mark.parametrize("name", [row.name for row in approaches() if row.front == "smmu-commands"])
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
NORIL = "noril_nvme_dd_r1m_j1_strict_61"


@st.composite
def scenarios(draw, **fixed):
    """Small runs of any shape, with full queues among them."""
    closed = draw(st.booleans())
    load = {"think": draw(st.sampled_from((0, 1, 5_000, 50_000)))} if closed else {"think": 0, "rate": 20_000}
    made = Scenario(
        workload=Unmaps(
            pages=draw(st.sampled_from((1, 3, 64, 65, 200))),
            ats_devices=draw(st.sampled_from((0, 0, 1, 3))),
            lazy=draw(st.sampled_from((False, False, True))),
            cd_every=draw(st.sampled_from((0, 0, 2))),
            spread=draw(st.sampled_from(("exponential", "constant"))),
            ops=draw(st.integers(1, 6)),
            **load,
        ),
        smmu=Smmu(
            ril=draw(st.booleans()),
            queue_log2=draw(st.sampled_from((7, 16))),
            host_queue_log2=draw(st.sampled_from((7, 16))),
            errata=draw(st.sampled_from(("none", "none", "tlbi-apart", "leaf-apart", "force-sync"))),
        ),
        guests=draw(st.integers(1, 3)),
        vcpus=draw(st.integers(1, 5)),
        costs=draw(st.sampled_from(("grace", "n1", "a57"))),
        seed=draw(st.integers(0, 99)),
    )
    return made.but(fixed)


def bits(run):
    """A digest of all that was recorded."""
    hashed = sha256()
    for table in (run.ops, run.batches):
        for name in table.names:
            hashed.update(table[name].tobytes())
    return hashed.hexdigest(), run.counts, run.queues, run.events


# -- the record ------------------------------------------------------------------------------------------------------


@of_commands
@pytest.mark.parametrize("pages", [1, 130])
def test_stages_sum_to_the_latency(name, pages):
    """In a closed loop with constant think time the latency is the time to the next start, less the think time."""
    think = 30_011
    load = Unmaps(pages=pages, ats_devices=1, think=think, spread="constant", ops=20)
    run = simulate(Scenario(workload=load, smmu=Smmu(ril=False), vcpus=4, guests=2), name)
    starts = defaultdict(list)
    latencies = defaultdict(list)
    for op, latency in zip(run.ops.rows(), run.latencies, strict=True):
        who = op["guest"], op["vcpu"]
        assert latency == sum(op[stage] for stage in STAGES)
        starts[who].append(op["start"])
        latencies[who].append(latency)
    assert len(starts) == 8
    for who, times in starts.items():
        assert times[0] == think
        assert [b - a - think for a, b in pairwise(times)] == latencies[who][:-1]


@every_approach
@settings(max_examples=25)
@given(scenario=scenarios())
def test_every_run_ends_and_leaves_nothing_behind(name, scenario):
    """No doorbell is lost (I-19), every entry is consumed once (I-4), no stage is negative."""
    assume(not scenario.refuses(approach(name)))
    run = simulate(scenario, name)
    assert len(run.measured) == scenario.guests * scenario.vcpus * scenario.workload.ops
    for _, _, prod, cons in run.queues:
        assert prod == cons
    consumed = Counter()
    for drain in run.batches.rows():
        queue = drain["guest"], drain["queue"]
        assert drain["cons"] == drain["prod"], "after a drain CONS is the PROD it captured"
        assert drain["rung"] <= drain["start"] <= drain["end"]
        consumed[queue] += drain["commands"]
        assert drain["commands"] > 0
    assert sum(consumed.values()) == run.counts.commands
    for guest, queue, prod, _ in run.queues:
        size = scenario.smmu.host_queue_log2 if run.approach.on_metal else scenario.smmu.queue_log2
        size = 8 if run.approach.queues == "ecmdq" else size
        assert consumed[guest, queue] % (2 << size) == prod
    for stage in STAGES:
        assert min(run.ops[stage]) >= 0
    for op, latency in zip(run.ops.rows(), run.latencies, strict=True):
        assert 0 <= op["irq_off"] <= latency


@every_approach
@settings(max_examples=5)
@given(scenario=scenarios())
def test_same_seed_same_bits(name, scenario):
    """I-36."""
    assume(not scenario.refuses(approach(name)))
    assert bits(simulate(scenario, name)) == bits(simulate(scenario, name))


def test_another_seed_gives_other_bits():
    scenario = Scenario(workload=Unmaps(ops=5))
    assert bits(simulate(scenario, "batched"))[0] != bits(simulate(scenario.but(seed=2), "batched"))[0]


@every_approach
def test_cons_of_a_queue_moves_forward_and_never_past_prod(name):
    """I-1, I-2: drains of a queue end in order, and each takes up what the one before left."""
    scenario = Scenario(workload=Unmaps(pages=130, ops=15, think=2_000), smmu=Smmu(ril=False), vcpus=4)
    run = simulate(scenario, name)
    wrap = 2 << (8 if run.approach.queues == "ecmdq" else 16)
    last = Counter()
    for drain in run.batches.rows():
        queue = drain["guest"], drain["queue"]
        assert drain["cons"] == (last[queue] + drain["commands"]) % wrap
        last[queue] = drain["cons"]


# -- time ------------------------------------------------------------------------------------------------------------


@every_approach
def test_time_is_an_int_everywhere(name, monkeypatch):
    times = []

    class Watched(simpy.Environment):
        def schedule(self, event, priority=simpy.events.NORMAL, delay=0):
            times.append(self.now + delay)
            super().schedule(event, priority, delay)

    monkeypatch.setattr(clock.simpy, "Environment", Watched)
    run = simulate(Scenario(workload=Unmaps(ops=20, ats_devices=1), vcpus=2, guests=2), name)
    assert times
    assert {type(time) for time in times} == {int}
    assert {run.ops[column].typecode for column in run.ops.names} <= set("BHIQq")
    assert set(OPS.values()) | set(BATCHES.values()) <= set("BHIQq")


def test_a_float_is_refused():
    with pytest.raises(InvalidInput):
        costs("grace").but(t_sync=900.0)
    with pytest.raises(InvalidInput):
        Unmaps(think=1e3)
    table = Table({"start": "q"})
    table.append((1.0,))
    with pytest.raises(TypeError):
        table["start"]  # reading it moves what is pending into the columns


# -- the driver ------------------------------------------------------------------------------------------------------


def test_the_poll_schedule_is_that_of_golden():
    """Cumulative udelay before the n-th read of CONS: both the steps and the closed form of the loop."""
    for row in GOLDEN["cons_poll"]["rows"]:
        steps = [poll_step(k, 0) for k in range(1, row["read"] + 1)]
        assert sum(steps) == 1000 * row["cumulative_udelay_us"]
    schedule = {row["read"]: 1000 * row["cumulative_udelay_us"] for row in GOLDEN["cons_poll"]["rows"]}
    for read in (10, 20, 30, 40, 50, 60):
        assert poll(0, schedule[read], 0, 0, 0) == (schedule[read], read)


@given(st.integers(0, 10**6), st.integers(0, 10**8), st.integers(0, 50), st.integers(0, 2_000), st.integers(0, 2_000))
def test_the_closed_form_of_polling_is_the_loop(t, wait, relax, read, taken):
    taken = min(taken, read)
    visible, k, now = t + wait, 0, t
    while True:
        k += 1
        now += poll_step(k, relax)
        if now + taken >= visible:
            break
        now += read
    assert poll(t, visible, relax, read, taken) == (now + read, k)


@of_commands
def test_a_large_unmap_rings_for_64_and_65_entries(name):
    run = simulate(Scenario(workload=Unmaps(pages=128, ops=2), smmu=Smmu(ril=False)), name)
    assert run.counts.doorbells == 4
    if not run.approach.has_worker:  # which may take two doorbells up at once
        assert list(run.batches["commands"]) == [64, 65] * 2


def recorded(**options):
    return Scenario(workload=Recorded(trace=NORIL, **options))


def test_the_driver_rings_as_the_recorded_one_did():
    """The same unmaps through the simulated driver give the doorbells of the recording: 64 and 65 entries."""
    published = [len(each.commands) for each in read_trace(NORIL).publications("workload")]
    assert set(published) == {64, 65}
    run = simulate(recorded(), "qemu-today")
    assert list(run.batches["commands"]) == published


def test_recorded_replay_consumes_every_command_once():
    """PROD as recorded, CONS equal to it after each doorbell, one ioctl and one host SYNC per TLBI."""
    trace = read_trace(NORIL)
    publications = trace.publications("workload")
    run = simulate(recorded(replay="recorded"), "qemu-today")
    assert list(run.batches["prod"]) == [each.prod for each in publications]
    assert list(run.batches["cons"]) == list(run.batches["prod"])
    assert list(run.batches["commands"]) == [len(each.commands) for each in publications]
    entries = sum(len(each.commands) for each in publications)
    syncs = sum(run.batches["syncs"])
    assert run.counts.commands == entries
    assert run.counts.ioctls == run.counts.host_syncs == entries - syncs == sum(run.ops["tlbi"])


@of_commands
def test_lazy_mode_flushes_once_in_255_unmaps(name):
    """A full flush queue flushes inline, what is left by the timer; each flush is one TLBI_NH_ASID and one CMD_SYNC."""
    load = Unmaps(lazy=True, ops=3 * 255 + 10, pages=16, think=1_000, spread="constant")
    run = simulate(Scenario(workload=load), name)
    flushes = [op for op in run.ops.rows() if op["tlbi"]]
    inline = [op for op in flushes if op["kind"] == 0]
    assert len(inline) == 3
    assert len(flushes) == 4
    assert {op["tlbi"] for op in flushes} == {1}
    assert run.counts.commands == 2 * len(flushes)


def test_lazy_mode_flushes_by_the_timer():
    """Unmaps that come slower than 255 in 10 ms leave the flush to the timer: 10 ms after the first that is queued."""
    load = Unmaps(lazy=True, ops=10, think=4_000_000, spread="constant")
    run = simulate(Scenario(workload=load), "qemu-today")
    queued = [
        op["start"] + latency for op, latency in zip(run.ops.rows(), run.latencies, strict=True) if not op["kind"]
    ]
    flushes = [op["start"] for op in run.ops.rows() if op["kind"] == 1]
    assert flushes[0] == queued[0] + 10_000_000
    assert len(flushes) == 4  # 10 unmaps in 40 ms, three to a flush


@of_commands
def test_interrupts_are_on_while_the_list_is_built_only(name):
    """I-21: from the allocation to the end of the wait they are off; on an idle queue that is all but g_fix a list."""
    scenario = Scenario(workload=Unmaps(pages=130, ats_devices=1, ops=5), smmu=Smmu(ril=False))
    run = simulate(scenario, name)
    lists = 3 + 1
    for off, latency in zip(run.ops["irq_off"], run.latencies, strict=True):
        assert off == latency - lists * scenario.costs.g_fix


# -- randomness ------------------------------------------------------------------------------------------------------


def test_think_times_are_the_same_under_every_approach():
    """In an open loop on an idle machine every unmap starts when it arrives, whoever consumes."""
    scenario = Scenario(workload=Unmaps(ops=30, think=0, rate=500), vcpus=2, guests=2, seed=7)
    starts = {
        name: sorted(zip(run.ops["guest"], run.ops["vcpu"], run.ops["start"], strict=True))
        for name in ALL
        for run in [simulate(scenario.but({"workload.maps": 0}), name)]
    }
    assert len({tuple(each) for each in starts.values()}) == 1


def test_a_stream_hangs_on_its_name_only():
    first = list(islice(clock.exponential(clock.stream(1, 0, 0, "gap"), 1000), 50))
    assert first == list(islice(clock.exponential(clock.stream(1, 0, 0, "gap"), 1000), 50))
    for other in ((2, 0, 0, "gap"), (1, 1, 0, "gap"), (1, 0, 1, "gap"), (1, 0, 0, "wake")):
        assert first != list(islice(clock.exponential(clock.stream(*other), 1000), 50))


def test_draws_are_exponential():
    """Mean, and the share below it and below its half, within 4 standard errors."""
    n, mean = 40_000, 100_000
    drawn = array("q", islice(clock.exponential(clock.stream(3, "test"), mean), n))
    assert abs(sum(drawn) / n / mean - 1) < 4 / n**0.5
    for part, share in ((0.5, 1 - 0.6065307), (1, 1 - 0.3678794)):
        assert abs(sum(each < part * mean for each in drawn) / n - share) < 4 * (share * (1 - share) / n) ** 0.5


# -- what is shared --------------------------------------------------------------------------------------------------


def test_32_cpus_reach_the_measured_rate_of_commands():
    """garry2_a32: 2.56 M TLBI+SYNC pairs/s on 32 CPUs; a CMD_SYNC's occupancy is not its latency."""
    load = Unmaps(pages=1, think=0, ops=300)
    run = simulate(Scenario(workload=load, vcpus=32, costs="n1"), "bare-metal")
    assert run.throughput >= 2.5e6
    alone = simulate(Scenario(workload=load, vcpus=1, costs="n1"), "bare-metal")
    assert alone.throughput < 1e9 / costs("n1").t_sync


def test_the_engine_is_never_faster_than_its_commands():
    c = costs("n1")
    run = simulate(Scenario(workload=Unmaps(pages=1, think=0, ops=300), vcpus=32, costs="n1"), "bare-metal")
    assert run.throughput <= 1e9 / (c.t_tlbi + c.sync_occ)


def test_a_full_queue_without_a_waiter_is_read_until_there_is_room():
    """Lists without CMD_SYNC fill the queue; nobody will update the shadow CONS, so the driver reads the register."""
    scenario = Scenario(workload=Unmaps(pages=200, ops=3), smmu=Smmu(ril=False, queue_log2=7, host_queue_log2=7))
    for row in approaches():
        if row.front == "smmu-commands":
            run = simulate(scenario, row)
            assert len(run.ops) == 3
            assert run.counts.cons_reads > 3 or row.queues == "ecmdq"


@every_approach
def test_stations_are_asked_in_the_order_of_time(name, monkeypatch):
    """The engine and the big lock are arithmetic: exact if and only if nobody comes before one who came already."""

    def in_order(method, position):
        def call(self, *given):
            assert given[position] >= getattr(self, "latest", 0)
            self.latest = given[position]
            return method(self, *given)

        return call

    monkeypatch.setattr(Fifo, "run", in_order(Fifo.run, 1))
    monkeypatch.setattr(Lock, "acquire", in_order(Lock.acquire, 0))
    fio = "noril_nvme_fio_rw16k_d8_j4_strict_61"
    for load in (
        Unmaps(pages=130, ats_devices=2, ops=20, think=10_000),
        Unmaps(lazy=True, ops=300, think=500),
        Recorded(trace=fio, replay="recorded", ops=200, think=1_000, spread="exponential"),
        Recorded(trace=fio, ops=30, think=1_000, spread="exponential"),
    ):
        scenario = Scenario(workload=load, smmu=Smmu(ril=False), guests=3)
        if not scenario.refuses(approach(name)):
            simulate(scenario, name)


def test_commands_reach_the_host_in_the_order_of_the_queue():
    """An ATC_INV ahead of another CPU's TLBIs is not issued after them: its answer is back that much earlier.

    Two vCPUs' lists in one array; PATHS 2.3: converted in order.
    """
    atc, tlbi = Work(0, 2, 0, 0, 1, 3), Work(40, 0, 0, 0, 1, 41)
    (ahead,) = cut(commands([atc, tlbi]), 63)
    (behind,) = cut(commands([tlbi, atc]), 63)
    assert (ahead.tail, behind.tail) == (40, 0)


# -- the budget of events --------------------------------------------------------------------------------------------

BEYOND = {"riders", "owner", "space", "host-cpu", "wake", "poll", "lock"}
"""Causes that DESIGN section 5 allows on top: others' publications, room, host CPUs, worker wakes, failed polls."""


@every_approach
@pytest.mark.parametrize("pages", [1, 8, 511])
def test_at_most_four_events_per_issue_call(name, pages):
    """However long the list: on uncontended resources, one vCPU each on a guest of its own or alone."""
    for guests, vcpus in ((1, 1), (1, 16)):
        load = Unmaps(pages=pages, ops=20, think=2_000_000)
        run = simulate(Scenario(workload=load, smmu=Smmu(ril=False), guests=guests, vcpus=vcpus), name)
        requests = len(run.ops) if run.approach.front == "virtio-iommu" else 0
        issue_calls = requests or len(run.ops) * -(-pages // 64)
        spent = sum(number for cause, number in run.events.items() if cause not in BEYOND)
        assert spent <= 4 * issue_calls


@pytest.mark.parametrize("name", ["short-path", "vcmdq", "bare-metal"])
def test_the_reads_of_a_cpu_that_waits_for_room_are_counted_and_no_events(name):
    small = Scenario(
        workload=Unmaps(pages=100, ops=5, think=0),
        smmu=Smmu(ril=False, queue_log2=7, host_queue_log2=7),
        vcpus=6,
    )
    for slow in (1, 1000):
        run = simulate(small.but({"costs.t_tlbi": 80 * slow}), name)
        lists = 2 * 6 * 5
        assert run.events["space"] <= 40 * lists
    assert run.counts.cons_reads > 200 * run.events["space"]


def test_neighbours_who_never_let_the_measured_guest_through_are_an_error():
    """A thread for each VM: of its queues one always has something, and so the thread keeps the only CPU."""
    scenario = Scenario(workload=Unmaps(pages=1, ops=1), guests=2, vcpus=6, host=Host(worker_cpus=1)).but(
        {
            "topology": {"preset": "per-smmu", "smmus": 3},
            "neighbour": {"guests": 1, "workload": {"pages": 100, "think": "2us"}},
            "costs.t_tlbi": "10us",
        }
    )
    row = approach("vhost-iommu").but(worker="vm")
    with pytest.raises(InvalidInput, match=r"^neighbour.guests: 1 of them never let guest 0 through.*worker_cpus is 1"):
        simulate(scenario, row)
    assert simulate(scenario.but({"host.worker_cpus": 2}), row).latencies


def test_who_waits_long_in_a_line_is_not_starved():
    """Thirty neighbours with a flush that takes 100 ms, and the measured guest behind them; it has its turn."""
    slow = {"pages": 1, "ats_devices": 1, "stall": "100ms", "lazy": True, "think": "20us"}
    scenario = Scenario(workload=Unmaps(pages=1, ops=3, think="30ms", ats_devices=1), guests=31)
    run = simulate(
        scenario.but({"neighbour": {"guests": 30, "workload": slow}}),
        approach("short-path").but(worker="host", weight=16),
    )
    assert len(run.measured) == 3
    assert run.counts.timeouts


def test_events_are_counted():
    """The counter misses none of the engine's own: what simpy numbers is them, and a start and an end per process."""
    seen = []
    original = clock.Clock.__init__

    def init(self):
        original(self)
        seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock.Clock, "__init__", init)
        run = simulate(Scenario(workload=Unmaps(ops=50, think=1_000), vcpus=4), "short-path")
    (own,) = seen
    processes = 4 + 1
    unfinished = 1 + 1  # the worker sleeps on: its process has no end, and its signal has not been given
    assert next(own.env._eid) == sum(run.events.values()) + 2 * processes - unfinished


def test_a_rider_is_published_by_its_owner():
    """Two lists gathered behind one owner leave with one PROD write, in the order in which they were allocated."""
    published = []

    def ring(group: Group, t):
        published.append([(ticket.end, ticket.work.entries) for ticket in group.tickets])
        return t + 100
        yield

    def cpu(at, entries):
        yield time.env.timeout(at)
        work = Work(entries - 1, 0, 0, 0, 1, entries)
        yield from queue.insert(at, work, 50, at)

    time = clock.Clock()
    queue = CommandQueue(time, 7, 10, ring, None, False)
    for at, entries in ((1, 3), (20, 5), (40, 2), (60, 4)):
        time.env.process(cpu(at, entries))
    time.env.run()
    assert published == [[(3, 3), (8, 5), (10, 2)], [(14, 4)]]
    assert queue.doorbells == 2
