"""A run that is watched: every stamp agrees with the record, which was written without anybody watching."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest

import smmu_lab as lab
from smmu_lab.arch import unmap_commands
from smmu_lab.record import KINDS
from smmu_lab.record.journal import LISTS
from smmu_lab.scenario import Approach, approaches
from smmu_lab.sim import watch as watching
from smmu_lab.sim.consumer import kernel_worker
from smmu_lab.sim.texts import ATC_INV, CMD_SYNC, REQUEST, TLBI
from smmu_lab.sim.watch import watch

ROWS = approaches()
ALL = {row.name: row for row in ROWS}


def small(**more) -> lab.Scenario:
    load = lab.unmaps(pages=more.pop("pages", 5), ops=more.pop("ops", 12), think=5_000, **more.pop("load", {}))
    return lab.Scenario(workload=load, smmu=lab.Smmu(ril=False, **more.pop("smmu", {})), vcpus=3, **more)


SCENARIOS = {
    "one guest": small(),
    "two guests": small(guests=2),
    "lists of 64": small(pages=130, ops=3),
    "a small queue": small(pages=60, ops=8, smmu={"queue_log2": 7}),
    "devices with ATS": small(load={"ats_devices": 2}),
    "context switches": small(load={"cd_every": 3}),
    "lazy": small(ops=300, load={"lazy": True}),
    "a vSMMU per SMMU": small(topology="per-smmu", guests=2),
    "one vSMMU over all": small(topology="broadcast"),
    "an illegal command": small(fault=lab.Fault(kind="illegal-command", op=4)),
    "a device that is gone": small(load={"ats_devices": 1}, fault=lab.Fault(kind="atc-timeout", op=4)),
}


@pytest.fixture(scope="module", params=SCENARIOS)
def journals(request):
    """All approaches that can run a scenario."""
    scenario = SCENARIOS[request.param]
    able = [row for row in ROWS if not scenario.refuses(row)]
    assert able
    return [watch(lab.simulate(scenario, row)) for row in able]


def test_every_entry_is_there(journals):
    for journal in journals:
        assert journal.whole
        assert len(journal.entries) == sum(guest.commands for guest in journal.run.guests)
        assert sum(journal.lists["entries"]) == len(journal.entries)


def test_stamps_are_in_the_order_in_which_a_command_meets_them(journals):
    for journal in journals:
        for row in journal.lists.rows():
            stamps = [row[name] for name in ("asked", "written", "published", "taken", "covered") if row[name] >= 0]
            assert stamps == sorted(stamps), (journal.run.approach.name, row)
            if row["seen"] >= 0 and not journal.run.counts.timeouts:
                assert row["seen"] >= row["visible"] >= 0


def test_a_list_lies_within_its_operation(journals):
    for journal in journals:
        ops = list(journal.run.ops.rows())
        ends = [op["start"] + took for op, took in zip(ops, journal.run.latencies, strict=True)]
        covered = defaultdict(int)
        for row in journal.lists.rows():
            op = ops[row["op"]]
            assert (op["guest"], op["vcpu"]) == (row["guest"], row["vcpu"])
            assert op["start"] <= row["asked"] <= row["seen"] <= ends[row["op"]] or row["seen"] < 0
            covered[row["op"]] = max(covered[row["op"]], row["seen"])
        for number, seen in covered.items():  # an operation ends when its last CMD_SYNC is seen
            assert seen in (ends[number], -1), journal.run.approach.name


def test_cons_moves_as_the_drains_of_the_record_say(journals):
    for journal in journals:
        mask = {k: 2 * ring.size - 1 for k, ring in enumerate(journal.queues)}
        guests = journal.run.graph.nodes.data("guest")
        numbers = Counter()
        queue_of = {}
        for name, guest in guests:
            if guest is not None:
                queue_of[guest, numbers[guest]] = next(k for k, r in enumerate(journal.queues) if r.name == name)
                numbers[guest] += 1
        moves = defaultdict(list)
        for move in journal.moves.rows():
            if not move["prod"]:
                moves[move["queue"]].append((move["time"], move["count"] & mask[move["queue"]]))
        for drain in journal.run.batches.rows():
            assert (drain["end"], drain["cons"]) in moves[queue_of[drain["guest"], drain["queue"]]]


def test_cons_follows_prod_and_neither_goes_back(journals):
    for journal in journals:
        for queue, ring in enumerate(journal.queues):
            mine = [move for move in journal.moves.rows() if move["queue"] == queue]
            for which in (0, 1):
                counts = [move["count"] for move in mine if move["prod"] == which]
                assert counts == sorted(counts)
            for move in mine:
                prod, cons = journal.at(queue, move["time"])
                assert 0 <= prod - cons <= ring.size


def test_spans_of_a_row_never_overlap(journals):
    for journal in journals:
        rows = defaultdict(list)
        for span in journal.spans.rows():
            if span["row"] < 255:
                rows[span["lane"], span["row"]].append((span["start"], span["end"]))
        for spans in rows.values():
            assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_the_engine_runs_a_list_for_every_cmd_sync_of_the_host():
    for name in ("qemu-today", "batched", "short-path", "vhost-iommu"):
        journal = watch(lab.simulate(small(), name))
        engine = [k for k, lane in enumerate(journal.lanes) if lane.kind == "smmu"]
        assert sum(span["lane"] in engine for span in journal.spans.rows()) == journal.run.counts.host_syncs


@pytest.mark.parametrize("name", ["qemu-today", "batched", "native-queue", "short-path-trapped-cons"])
def test_every_exit_is_a_span(name):
    """With one vCPU no two exits touch, so none are joined."""
    scenario = lab.Scenario(workload=lab.unmaps(pages=5, ops=20), smmu=lab.Smmu(ril=False))
    journal = watch(lab.simulate(scenario, name))
    exits = [k for k, lane in enumerate(journal.lanes) if lane.kind == "exit"]
    counts = journal.run.counts
    assert sum(span["lane"] in exits for span in journal.spans.rows()) == counts.exits_vmm + counts.exits_kernel


def test_one_by_one_each_command_has_its_own_time_at_the_smmu():
    """QEMU of 2026: an ioctl and a CMD_SYNC for each, so no two are at the SMMU at once; an array is."""
    costs = lab.costs("grace")
    one = watch(lab.simulate(small(), "qemu-today"))
    times = sorted((each["start"], each["done"]) for each in one.entries.rows() if each["kind"] == TLBI)
    assert all(done - start == costs.t_tlbi + costs.t_sync for start, done in times)
    assert all(before[1] <= after[0] for before, after in pairwise(times))
    batched = watch(lab.simulate(small(), "batched"))
    assert len({each["start"] for each in batched.entries.rows()} - {-1}) == batched.run.counts.host_syncs


def test_entries_say_what_linux_writes():
    journal = watch(lab.simulate(small(pages=130, ops=2), "short-path"))
    expected = [str(command) for command in unmap_commands(1 << 32, 130 << 12, ril=False)]
    said = defaultdict(list)
    for row in sorted(journal.lists.rows(), key=lambda row: row["asked"]):
        texts = journal.entries["text"][row["first"] : row["first"] + row["entries"]]
        said[row["op"]] += [journal.texts[text] for text in texts]
    assert all(texts == [*expected, "CMD_SYNC"] for texts in said.values())


def test_kinds_are_those_of_the_workload():
    ats = watch(lab.simulate(small(load={"ats_devices": 2}), "batched"))
    kinds = Counter(ats.entries["kind"])
    ops = len(ats.run.ops)
    assert kinds == {TLBI: 5 * ops, ATC_INV: 2 * ops, CMD_SYNC: 2 * ops}
    requests = watch(lab.simulate(small(), "vhost-iommu"))
    assert set(requests.entries["kind"]) == {REQUEST}
    assert set(requests.texts) == {"MAP of 5 pages", "UNMAP of 5 pages"}


@pytest.mark.parametrize("replay", ["driver", "recorded"])
def test_a_recorded_guest_can_be_watched(replay):
    load = lab.read_trace("nvme_dd_r4k_j4_strict_61").workload(think="20us", replay=replay, ops=400)
    journal = watch(lab.simulate(lab.Scenario(workload=load), "short-path"), 1_000)
    ops = journal.run.ops
    for row in journal.lists.rows():
        assert ops["vcpu"][row["op"]] == row["vcpu"]
    assert len(journal.entries) > 500 if journal.whole else len(journal.entries) <= 1_000
    assert {KINDS[kind] for kind in ops["kind"]} & {"unmap", "doorbell"}


def test_a_part_is_the_beginning_of_the_whole():
    run = lab.simulate(small(ops=60), "short-path")
    whole, part = watch(run), watch(run, 300)
    assert not part.whole
    assert 250 < len(part.entries) <= 300
    assert part.end < whole.end
    for queue in range(len(whole.queues)):
        for time in range(0, part.end, 997):
            assert part.at(queue, time) == whole.at(queue, time)
    stamps = [name for name, code in LISTS.items() if code == "q"]
    for row, (mine, all_) in enumerate(zip(part.lists.rows(), whole.lists.rows(), strict=False)):
        assert {name: mine[name] for name in stamps} == {
            name: all_[name] if all_[name] <= part.end else -1 for name in stamps
        }, row


def test_columns_travel_once_and_are_small():
    journal = watch(lab.simulate(small(ops=100), "short-path"))
    layout, data = journal.columns()
    sizes = {"q": 8, "I": 4, "H": 2, "B": 1}
    assert len(data) == sum(sizes[code] * length for _, code, length in layout)
    assert {name.partition(".")[0] for name, _, _ in layout} == {"lists", "entries", "spans", "moves", "ops"}
    assert len(data) / len(journal.entries) < 150  # bytes per command in lists of six


def test_a_consumer_that_is_not_deterministic_is_refused():
    turns = iter(range(1000))

    def moody(queue, doorbell, host):
        while True:
            t = yield from doorbell.wait()
            while drain := doorbell.take(t):
                t = yield from host.delay(t, 100 * next(turns))
                t = yield from host.execute(drain, t)
                queue.complete(drain, t)
            doorbell.done(t)

    run = lab.simulate(small(), lab.approach("short-path").but(consumer=moody))
    with pytest.raises(lab.InvalidInput, match="not deterministic"):
        watch(run)
    own: Approach = lab.approach("short-path").but(consumer=kernel_worker)
    assert watch(lab.simulate(small(), own)).whole


def test_what_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(watching, "MOST", 100)
    with pytest.raises(lab.InvalidInput, match=r"216 commands are too many to watch: at most 100"):
        watch(lab.simulate(small(), "short-path"))


@pytest.mark.parametrize("kind", ["illegal-command", "atc-timeout"])
def test_a_worker_works_no_longer_than_it_has_a_cpu(kind):
    """A queue that stands at an error for a second keeps nobody at work."""
    scenario = small(load={"ats_devices": 1}, fault=lab.Fault(kind=kind, op=4))
    journal = watch(lab.simulate(scenario, "short-path"))
    workers = [k for k, lane in enumerate(journal.lanes) if lane.kind == "worker"]
    thick = [span for span in journal.spans.rows() if span["lane"] in workers and not span["thin"]]
    assert 0 < sum(span["end"] - span["start"] for span in thick) <= journal.run.counts.cpu_worker


def test_lists_that_begin_together_are_not_cut_apart():
    load = lab.unmaps(pages=5, ops=12, think=0, spread="constant")
    run = lab.simulate(lab.Scenario(workload=load, smmu=lab.Smmu(ril=False), vcpus=3), "batched")
    for entries in (1, 7, 50):
        part = watch(run, entries)
        assert min(part.lists["asked"]) >= 0
        assert part.end >= max(part.lists["asked"])


def test_what_finds_no_row_is_counted():
    load = lab.unmaps(pages=5, ops=40, think=0)
    run = lab.simulate(lab.Scenario(workload=load, smmu=lab.Smmu(ril=False), vcpus=8), "vcmdq")
    journal = watch(run)
    (engine,) = [lane for lane in journal.lanes if lane.kind == "smmu"]
    drawn = sum(journal.lanes[span["lane"]].kind == "smmu" for span in journal.spans.rows())
    assert engine.hidden > 0
    assert engine.rows <= 4
    waits = sum(rung < taken for rung, taken in zip(journal.lists["published"], journal.lists["taken"], strict=True))
    assert len(journal.lists) <= drawn + engine.hidden <= len(journal.lists) + waits


def test_operations_are_numbered_as_a_fault_counts_them():
    scenario = small(fault=lab.Fault(kind="illegal-command", op=4))
    journal = watch(lab.simulate(scenario, "batched"))
    struck = next(
        row
        for row in journal.lists.rows()
        if 4 in journal.entries["kind"][row["first"] : row["first"] + row["entries"]]
    )
    assert journal.ops["number"][struck["op"]] == 4


def test_entries_ahead_of_an_error_have_their_times():
    scenario = small(fault=lab.Fault(kind="illegal-command", op=4))
    journal = watch(lab.simulate(scenario, "batched"))
    assert sum(start >= 0 for start in journal.entries["start"]) > 20
