"""Every row of the catalogue keeps the invariants, and every fault that is put in on purpose is found by its name."""

import json
from io import StringIO
from itertools import count

import pytest
from rich.console import Console

import smmu_lab as lab
from smmu_lab.arch import RejectedCommand, rewrite, vcmdq, vsmmu
from smmu_lab.scenario import Batch, approach, approaches
from smmu_lab.scenario import workload as workload_module
from smmu_lab.sim import completion, consumer, doorbell, guest, handoff, host, kernel, queue, smmu
from smmu_lab.sim.thread import Drain
from smmu_lab.study.conformance import DOES_NOT_APPLY, FAILS, HOLDS, REPORTED, check_approach, described, scenarios
from smmu_lab.study.evidence import observe
from smmu_lab.study.invariants import INVARIANTS
from smmu_lab.study.isolation import GUESTS
from smmu_lab.study.trials import TRIALS

NAMES = ["no-exception", "whole-times", *(each.name for each in (*INVARIANTS, *TRIALS))]

VARIANTS = [
    *(("msi-word", name, {"completion": "msi-word"}) for name in ("batched", "batched-at-sync", "native-queue")),
    *(("msi-word", name, {"completion": "msi-word"}) for name in ("qemu-today", "short-path", "short-path-polled")),
    *(("msi-word", name, {"completion": "msi-word"}) for name in ("short-path-sync", "bare-metal", "ecmdq")),
    *(("in turns", name, {"arbitration": "round-robin"}) for name in ("vcmdq", "ecmdq", "vcmdq-overlay")),
    *(("parallel", name, {"execution": "parallel"}) for name in ("vcmdq", "ecmdq")),
    *(("a thread per VM", name, {"worker": "vm"}) for name in ("vcmdq-emulated", "vhost-iommu")),
    *(("a thread for all", name, {"worker": "host"}) for name in ("short-path", "short-path-polled")),
    ("busy polling", "short-path", {"busy_poll": 5_000}),
    ("busy polling for long", "vhost-iommu", {"busy_poll": 2_000_000}),
    ("a weight", "vcmdq-emulated", {"weight": 1, "worker": "host"}),
    ("host groups", "short-path", {"host_group": 63}),
    ("interrupts", "virtio-iommu", {"completion": "used-ring-irq"}),
    ("constant wakes", "short-path-trapped-cons", {"wake": "constant"}),
    ("a page for CONS", "qemu-today", {"completion": "shared-cons"}),
]
"""Rows with a choice changed: why, which, what."""


@pytest.mark.parametrize("row", [row.name for row in approaches()])
def test_every_row_of_the_catalogue_passes(row):
    checked = check_approach(row)
    assert checked.passed, checked
    assert [finding.name for finding in checked.findings] == NAMES


@pytest.mark.parametrize(("name", "changes"), [pytest.param(*row[1:], id=f"{row[1]}, {row[0]}") for row in VARIANTS])
def test_every_variant_passes(name, changes):
    checked = check_approach(approach(name).but(changes))
    assert checked.passed, checked


def test_other_seeds_pass():
    for seed in (2, 3):
        assert check_approach("short-path", seed=seed).passed


# -- faults of a consumer ----------------------------------------------------------------------------------------------


def stores_cons_before_it_runs_anything(queue, doorbell, host):
    while True:
        t = yield from doorbell.wait()
        while drain := doorbell.take(t):
            queue.complete(drain, t)
            t = yield from host.execute(drain, t)
        doorbell.done(t)


def forgets_what_rings_while_it_drains(queue, doorbell, host):
    """Once per wake, and the flag is cleared after PROD was read."""
    while True:
        t = yield from doorbell.wait()
        drain = doorbell.take(t)
        t = yield from host.execute(drain, t)
        queue.complete(drain, t)
        doorbell.rings.clear()
        rest = list(doorbell.published)
        doorbell.published.clear()
        doorbell.done(t)
        doorbell.published.extend(rest)


def draining(change):
    """A worker that does one thing differently: what it has executed, or says that it has, is up to `change`."""

    def worker(queue, doorbell, host):
        while True:
            t = yield from doorbell.wait()
            while drain := doorbell.take(t):
                t = yield from change(queue, host, drain, t)
            doorbell.done(t)

    return worker


@draining
def reverses_the_groups(queue, host, drain, t):
    drain.groups.reverse()
    t = yield from host.execute(drain, t)
    queue.complete(drain, t)
    return t


@draining
def drops_a_list(queue, host, drain, t):
    part = Drain(drain.groups[1:], t) if len(drain.groups) > 1 else drain
    t = yield from host.execute(part, t)
    queue.complete(drain, t)
    return t


@draining
def runs_everything_twice(queue, host, drain, t):
    t = yield from host.execute(drain, t)
    t = yield from host.execute(drain, t)
    queue.complete(drain, t)
    return t


@draining
def moves_cons_too_far(queue, host, drain, t):
    t = yield from host.execute(drain, t)
    queue.complete(drain, t)
    queue.consumed(t, 1)
    return t


@draining
def dawdles(queue, host, drain, t):
    t = yield from host.delay((yield from host.execute(drain, t)), 7)
    queue.complete(drain, t)
    return t


@draining
def waits_longer_for_faster_copies(queue, host, drain, t):
    t = yield from host.delay((yield from host.execute(drain, t)), max(0, 1_000 - 10 * host.fetch))
    queue.complete(drain, t)
    return t


runs = count()


@draining
def is_slower_every_time(queue, host, drain, t):
    t = yield from host.delay((yield from host.execute(drain, t)), next(runs))
    queue.complete(drain, t)
    return t


@draining
def is_done_at_half_a_nanosecond(queue, host, drain, t):
    t = yield from host.execute(drain, t)
    queue.complete(drain, t + 0.5)
    return t


@draining
def divides_by_zero(queue, host, drain, t):
    yield from host.execute(drain, t)
    return t // 0


def takes_what_prod_does_not_show_yet(queue, doorbell, host):
    while True:
        t = yield from doorbell.wait()
        while drain := doorbell.take(t):
            drain.groups += doorbell.published
            doorbell.published.clear()
            t = yield from host.execute(drain, t)
            queue.complete(drain, t)
        doorbell.done(t)


def never_wakes(queue, doorbell, host):
    return
    yield


def is_no_generator(queue, doorbell, host):
    return 42


def takes_for_ever(queue, doorbell, host):
    t = yield from doorbell.wait()
    while True:
        doorbell.take(t)


def does_nothing_for_ever(queue, doorbell, host):
    yield from doorbell.wait()
    while True:
        pass


def stands_still(queue, doorbell, host):
    """Waits again and again, always for the same instant."""
    t = yield from doorbell.wait()
    while True:
        yield doorbell.clock.turn(t, 0, 0, "still")


CONSUMERS = {
    stores_cons_before_it_runs_anything: "cons-after-execution",
    forgets_what_rings_while_it_drains: "no-lost-doorbell",
    reverses_the_groups: "order",
    drops_a_list: "order",
    runs_everything_twice: "order",
    moves_cons_too_far: "cons-within-prod",
    waits_longer_for_faster_copies: "monotone",
    is_slower_every_time: "same-bits",
    is_done_at_half_a_nanosecond: "whole-times",
    divides_by_zero: "no-exception",
    takes_what_prod_does_not_show_yet: "read-after-publication",
    never_wakes: "no-lost-doorbell",
    is_no_generator: "no-exception",
    takes_for_ever: "no-exception",
    does_nothing_for_ever: "no-exception",
    stands_still: "no-exception",
}
NAMED = {mutant: name for name, mutant in list(globals().items()) if callable(mutant)}


@pytest.mark.parametrize(("mutant", "invariant"), CONSUMERS.items(), ids=[NAMED[each] for each in CONSUMERS])
def test_a_faulty_consumer_is_caught_by_the_invariant_that_names_it(mutant, invariant):
    checked = check_approach(approach("short-path").but(consumer=mutant))
    assert not checked
    assert checked[invariant].verdict == FAILS, checked
    assert checked[invariant].said


@draining
def does_it_right(queue, host, drain, t):
    t = yield from host.execute(drain, t)
    queue.complete(drain, t)
    return t


def takes_one_group_at_a_time(queue, doorbell, host):
    """Slower than the kernel's worker, and no less right."""
    while True:
        t = yield from doorbell.wait()
        while drain := doorbell.take(t):
            for group in drain.groups:
                part = Drain([group], t)
                t = yield from host.execute(part, t)
                queue.complete(part, t)
        doorbell.done(t)


@pytest.mark.parametrize(
    "own",
    [does_it_right, takes_one_group_at_a_time, dawdles],
    ids=["like the kernel's", "group by group", "with time of its own"],
)
@pytest.mark.parametrize("name", ["short-path", "vhost-iommu"])
def test_a_right_consumer_of_ones_own_passes(name, own):
    checked = check_approach(approach(name).but(consumer=own))
    assert checked.passed, checked
    assert checked["zero-cost-limit"].verdict == ("reported" if own is dawdles else "holds")


# -- faults of the engine ----------------------------------------------------------------------------------------------


def syncs_complete_early(patch):
    patch.setattr(smmu.Fifo, "retire", lambda self, feed, end, sync: end)


def host_calls_do_not_wait(patch):
    def call(self, t, work, party, counts):
        counts.host_syncs += 1
        counts.host_commands += work.entries
        end = t + self.write + self.post
        self.clock.note("host", divmod(party, 1 << 16), t, end, work)
        return end
        yield

    patch.setattr(host.HostQueue, "call", call)


def words_are_written(patch, when):
    """The VMM writes the words of CMD_SYNCs at other times than when it is through with what is before them."""

    def consume(self, queue, group, t):
        ends = []
        if when == "first":
            for ticket in group.tickets:
                ticket.complete(t)
        end = yield from self.handoff.consume(group.tickets, t, lambda ticket, at: ends.append(at))
        if when == "backwards":
            for ticket, at in zip(group.tickets, reversed(ends), strict=True):
                ticket.complete(at)
        queue.complete(Drain([group], t), end)
        return end

    patch.setattr(consumer.Vmm, "consume", consume)


def words_are_written_at_decode(patch):
    words_are_written(patch, "first")


def words_are_written_backwards(patch):
    words_are_written(patch, "backwards")


def riders_are_published_unwritten(patch):
    patch.setattr(queue.Group, "ride", lambda self, ticket: self.tickets.append(ticket))


def riders_are_published_backwards(patch):
    write_prod = queue.CommandQueue._write_prod

    def backwards(self, group, t):
        group.tickets.reverse()
        return write_prod(self, group, t)

    patch.setattr(queue.CommandQueue, "_write_prod", backwards)


def tlbis_and_atc_invs_share_a_list(patch):
    patch.setattr(
        workload_module,
        "unmap_batches",
        lambda pages, granule, ril, ats_devices: (Batch(tlbi=min(pages, 60), atc=ats_devices),),
    )


def vcpus_go_on_at_once(patch):
    patch.setattr(completion.Polled, "seen", lambda self, ticket, t: t + self.cost)


def exits_are_not_counted(patch):
    ring = doorbell.TrapToVmm.ring

    def uncounted(self, group, t):
        self.counts.exits_vmm -= 1
        return ring(self, group, t)

    patch.setattr(doorbell.TrapToVmm, "ring", uncounted)


def host_commands_are_counted_twice(patch):
    call = host.HostQueue.call

    def twice(self, t, work, party, counts):
        counts.host_commands += work.entries
        return call(self, t, work, party, counts)

    patch.setattr(host.HostQueue, "call", twice)


def locks_never_wait(patch):
    def acquire(self, t):
        return t
        yield

    patch.setattr(consumer.Lock, "acquire", acquire)


def used_rings_are_written_before_the_invalidation(patch):
    consume = handoff.MapUnmap.consume

    def early(self, requests, t):
        requests[-1].complete(t)
        return consume(self, requests, t)

    patch.setattr(handoff.MapUnmap, "consume", early)


def time_is_booked_twice(patch):
    share = queue.Ticket.share

    def twice(self, stage, start, until):
        share(self, stage, start, until)
        stage[queue.GATHER] += 1

    patch.setattr(queue.Ticket, "share", twice)


def engines_wait_for_each_others_answers(patch):
    def retire(self, feed, end, sync):
        self.answered = max(getattr(self, "answered", 0), feed.answered)
        return max(end, self.answered) + self.latency if sync else end

    patch.setattr(smmu.Fifo, "retire", retire)
    patch.setattr(guest.Machine, "hardware_queue", lambda self, smmu: self.engines[smmu])


def drains_take_time_that_no_cost_names(patch):
    issue = consumer.Host._issue

    def slower(self, works, t):
        return 100 + (yield from issue(self, works, t))

    patch.setattr(consumer.Host, "_issue", slower)


def arrays_are_cut_behind_64_commands(patch):
    cut = kernel.cut
    patch.setattr(kernel, "cut", lambda array, group, errata: cut(array, group + 1, errata))


def what_waits_for_a_cmd_sync_is_handed_over_at_once(patch):
    def consume(self, tickets, t, written):
        return self._array(tickets, t, written)

    patch.setattr(handoff.Handoff, "_array_at_sync", consume)


ENGINE = [
    (arrays_are_cut_behind_64_commands, "batched", {}, "same-commands"),
    (what_waits_for_a_cmd_sync_is_handed_over_at_once, "batched-at-sync", {}, "same-commands"),
    (drains_take_time_that_no_cost_names, "short-path", {}, "zero-cost-limit"),
    (syncs_complete_early, "vcmdq", {}, "execution-takes-its-time"),
    (host_calls_do_not_wait, "batched", {}, "execution-takes-its-time"),
    (words_are_written_at_decode, "batched", {"completion": "msi-word"}, "sync-after-predecessors"),
    (words_are_written_backwards, "qemu-today", {"completion": "msi-word"}, "syncs-in-order"),
    (riders_are_published_unwritten, "short-path", {}, "published-entries-valid"),
    (riders_are_published_backwards, "vcmdq", {}, "prod-forward"),
    (tlbis_and_atc_invs_share_a_list, "batched", {}, "unmap-after-sync"),
    (vcpus_go_on_at_once, "short-path", {}, "unmap-after-sync"),
    (exits_are_not_counted, "native-queue", {}, "counts"),
    (host_commands_are_counted_twice, "short-path", {}, "conservation"),
    (locks_never_wait, "vcmdq-emulated-vmm", {}, "one-handler-at-a-time"),
    (used_rings_are_written_before_the_invalidation, "virtio-iommu", {}, "sync-after-predecessors"),
    (time_is_booked_twice, "bare-metal", {}, "littles-law"),
    (engines_wait_for_each_others_answers, "vcmdq", {"execution": "parallel"}, "stall-isolation"),
]


@pytest.mark.parametrize(
    ("mutate", "name", "changes", "invariant"), [pytest.param(*each, id=each[0].__name__) for each in ENGINE]
)
def test_a_faulty_engine_is_caught_by_the_invariant_that_names_it(mutate, name, changes, invariant, monkeypatch):
    mutate(monkeypatch)
    checked = check_approach(approach(name).but(changes))
    assert checked[invariant].verdict == FAILS, checked


# -- faults of the rewrite ---------------------------------------------------------------------------------------------


def anothers(sids):
    return next((guest.sids for guest in GUESTS if guest.sids != sids), sids)


def vmids_are_not_replaced(patch, where):
    patch.setattr(
        where, "rewrite", lambda command, vmid, sids: rewrite(command, command.fields.get("vmid", vmid), sids)
    )


def streams_are_looked_up_in_anothers_table(patch, where):
    patch.setattr(where, "rewrite", lambda command, vmid, sids: rewrite(command, vmid, anothers(sids)))


def nsnh_all_is_passed_on(patch, where):
    def passes(command, vmid, sids):
        return command if command.name == "TLBI_NSNH_ALL" else rewrite(command, vmid, sids)

    patch.setattr(where, "rewrite", passes)


def refused_commands_are_forwarded(patch, where):
    def forwards(command, vmid, sids):
        try:
            return rewrite(command, vmid, sids)
        except RejectedCommand:
            return command

    patch.setattr(where, "rewrite", forwards)


def hyp_own_is_left_set(patch, where):
    init = where.Vintf.__init__
    patch.setattr(where.Vintf, "__init__", lambda self, *given, **named: init(self, *given, hyp_own=True, **named))


def nh_all_is_accepted(patch, where):
    patch.setattr(where, "VCMDQ_ACCEPTS", where.VCMDQ_ACCEPTS | {"TLBI_NH_ALL"})


REWRITE = [
    *(
        (mutate, name, vsmmu, said)
        for name in ("qemu-today", "batched-at-sync", "native-queue", "short-path", "vcmdq-overlay")
        for mutate, said in (
            (vmids_are_not_replaced, ": VMID 0x5555 (its own is 0x11)"),
            (streams_are_looked_up_in_anothers_table, ": StreamID 0x2403 (its own are 0x2301, 0x2302, 0x2303)"),
            (nsnh_all_is_passed_on, "as TLBI_NSNH_ALL: a command that must not come there"),
            (refused_commands_are_forwarded, ": a command that must not come there"),
        )
    ),
    *(
        (mutate, name, vcmdq, said)
        for name in ("vcmdq", "vcmdq-overlay")
        for mutate, said in (
            (vmids_are_not_replaced, ": VMID 0x5555 (its own is 0x11)"),
            (streams_are_looked_up_in_anothers_table, ": StreamID 0x2403 (its own are 0x2301, 0x2302, 0x2303)"),
            (hyp_own_is_left_set, "as PREFETCH_CFG sid=0x18 addr=0x0: a command that must not come there"),
        )
    ),
    (nh_all_is_accepted, "vcmdq", vcmdq, "as TLBI_NH_ALL vmid=0x11: a command that must not come there"),
]
"""The fault, the row, where it is put in, and how the finding ends or what it tells of the command that comes out."""


@pytest.mark.parametrize(
    ("mutate", "name", "where", "said"),
    [pytest.param(*each, id=f"{each[0].__name__}, {each[1]}, {each[2].__name__}") for each in REWRITE],
)
def test_a_faulty_rewrite_breaks_isolation(mutate, name, where, said, monkeypatch):
    mutate(monkeypatch, where)
    checked = check_approach(name)
    assert checked["isolation"].verdict == FAILS, checked
    assert said in checked["isolation"].said[0]
    needed = checked["isolation"].said[0].split("; under ")[0].split("; ")
    assert len(needed) == 1 + (name == "batched-at-sync"), (
        "one entry will do, and a CMD_SYNC where nothing goes without"
    )


def test_what_says_nothing_about_an_approach_says_why():
    own = approach("short-path").but(consumer=does_it_right)
    for row, name, why in (
        ("bare-metal", "isolation", "the host's own"),
        ("ecmdq", "isolation", "the host's own"),
        ("virtio-iommu", "isolation", "makes its own"),
        ("bare-metal", "one-handler-at-a-time", "no software"),
        (own, "same-commands", "what it likes"),
    ):
        checked = check_approach(row)
        assert checked[name].verdict == DOES_NOT_APPLY
        assert why in checked[name].said[0]
        assert checked[name].said[0] in repr(checked)
    assert check_approach(own)["isolation"].verdict == HOLDS


def test_every_invariant_has_a_fault_that_it_finds():
    caught = {*CONSUMERS.values(), *(each[-1] for each in ENGINE), *(["isolation"] if REWRITE else [])}
    assert caught == {*NAMES} - {"monotone-together"}, "which only reports"


@pytest.mark.parametrize("name", ["bare-metal", "vcmdq", "vcmdq-overlay"])
def test_cons_of_a_hardware_queue_moves_in_order_when_answers_are_late(name):
    """A list without CMD_SYNC is run while the CMD_SYNC before it waits for an ATC_INV; CONS waits, too."""
    load = lab.unmaps(pages=65, ats_devices=1, think=1_000, ops=2)
    late = lab.Scenario(workload=load, smmu=lab.Smmu(ril=False), vcpus=4).but({"costs.atc_rtt": 20_000})
    (forward,) = (each for each in INVARIANTS if each.name == "cons-within-prod")
    assert not list(forward.breaches(observe(late, approach(name))))


# -- counter-examples --------------------------------------------------------------------------------------------------


def test_a_counter_example_is_small_and_has_a_timeline():
    row = approach("short-path").but(consumer=runs_everything_twice)
    finding = check_approach(row)["order"]
    load = finding.scenario.workload
    assert (finding.scenario.guests, finding.scenario.vcpus, load.pages, load.ops) == (1, 1, 1, 1)
    times = [time for time, _, _ in finding.timeline]
    assert times == sorted(times)
    assert any("PROD covers" in what for _, _, what in finding.timeline)


def test_what_is_surprising_and_true_is_reported_with_its_cause():
    checked = check_approach("short-path")
    assert checked["monotone"].verdict == REPORTED
    assert "poll loop" in checked["monotone"].said[0]
    assert checked["stall-isolation"].verdict == REPORTED
    assert check_approach(approach("vcmdq").but(execution="parallel"))["stall-isolation"].verdict == HOLDS


def test_the_scenarios_hang_on_the_seed_only():
    assert list(scenarios(3)) == list(scenarios(3)) != list(scenarios(4))
    assert {described(each) for each in scenarios(1)} >= {
        "workload.pages=1, workload.think=1000000, workload.spread=constant, workload.ops=2, smmu.ril=False"
    }


# -- how it shows itself -----------------------------------------------------------------------------------------------


def test_names_and_messages_of_others_are_text_and_nothing_else():
    def rude(queue, doorbell, host):
        raise RuntimeError("<script>[bold]")
        yield

    checked = check_approach(approach("short-path").but(consumer=rude, name="<b>[red]x"))
    page = checked._repr_html_()
    assert "<script>" not in page
    assert "<b>[red]" not in page
    console = Console(record=True, width=200, file=StringIO())
    console.print(checked)
    shown = console.export_text()
    for text in (shown, repr(checked)):
        assert "<b>[red]x" in text
        assert "<script>[bold]" in text


def test_a_result_is_plain_data():
    checked = check_approach(approach("short-path").but(consumer=never_wakes))
    told = json.loads(json.dumps(checked.to_dict()))
    assert told["passed"] is checked.passed is False
    assert [each["name"] for each in told["findings"]] == NAMES
    (lost,) = [each for each in told["findings"] if each["name"] == "no-lost-doorbell"]
    assert [time for time, _, what in lost["timeline"] if "has seen" in what] == [None]
    assert lab.Scenario.from_dict(lost["scenario"]).workload.ops == 1


def test_an_unknown_row_is_refused():
    with pytest.raises(lab.InvalidInput):
        check_approach("shortpath")
