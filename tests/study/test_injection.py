"""What a fault does under each approach: what is told, what is lost, who waits.

What each consumer does at a bad entry is written down by hand, from PATHS sections 1.2, 2.1 to 2.6 and 5.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import smmu_lab as lab
from smmu_lab.scenario import approach, approaches
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.driver import SYNC_TIMEOUT, watch
from smmu_lab.sim.simulate import observed
from smmu_lab.study import inject

ROWS = [row.name for row in approaches()]
COMMANDS = [row.name for row in approaches() if row.front == "smmu-commands"]
SOFTWARE = [name for name in COMMANDS if not approach(name).executes_directly]
REQUESTS = {"vhost-iommu", "virtio-iommu"}

TOLD_OF_ILLEGAL = dict.fromkeys(ROWS, "CERROR_ILL") | dict.fromkeys(REQUESTS, "the request's status") | {
    "native-queue": "nothing"  # -EOPNOTSUPP is passed over in silence
}  # fmt: skip
TOLD_OF_UNKNOWN_SID = dict.fromkeys(SOFTWARE, "nothing") | {
    "native-queue": "CERROR_ILL",  # -ENODEV
    "vcmdq": "CERROR_ILL",  # no entry of the match table
    "vcmdq-emulated": "CERROR_ILL",  # as the hardware that it stands for
    "vcmdq-overlay": "nothing",  # the VMM drops it
}


def scenario(kind, **more):
    base = lab.Scenario(
        workload=lab.unmaps(pages=6, ats_devices=2, ops=30, think="20us"), smmu=lab.Smmu(ril=False), vcpus=2
    )
    return base.but({"fault.kind": kind, "fault.op": 9, "fault.vcpu": 1, "fault.after": 4} | more)


def trail(made, name):
    clock = Clock()
    clock.trail = []
    return observed(made, approach(name), clock), clock.trail


# -- what the guest is told --------------------------------------------------------------------------------------------


def test_an_illegal_command_is_told_as_cerror_ill_wherever_somebody_looks_at_it():
    told = {name: each.seen for name, each in inject(scenario("illegal-command"), ROWS).effects.items()}
    assert told == TOLD_OF_ILLEGAL


def test_an_unknown_stream_is_told_of_only_where_the_kernel_or_the_hardware_looks_it_up():
    told = {name: each.seen for name, each in inject(scenario("unknown-sid")).effects.items()}
    assert told == TOLD_OF_UNKNOWN_SID


@pytest.mark.parametrize("name", ROWS)
def test_a_device_that_never_answers_is_told_of_only_to_who_runs_the_hardware(name):
    effect = inject(scenario("atc-timeout", **{"costs.atc_timeout": "10ms"}), [name])[name]
    own = approach(name).executes_directly
    assert effect.seen == ("CERROR_ATC_INV_SYNC" if own else "nothing")
    assert effect.lost == 1
    if own:
        assert effect.run.stops["stopped"][0] > 10_000_000


@pytest.mark.parametrize("name", COMMANDS)
def test_the_error_stands_at_the_entry_in_error(name):
    """CONS of the stop is the number of entries before: fault.after of the struck list, and whole lists before it."""
    run, steps = trail(scenario("illegal-command"), name)
    for stop in run.stops.rows():
        queue = stop["guest"], stop["queue"]
        ends = [ticket.end for what, name, *rest in steps if what == "issued" and name == queue for ticket in [rest[1]]]
        begins = [0, *ends]
        struck = max(end for end in begins if end <= stop["cons"])
        assert stop["cons"] - struck == 4


# -- while it stands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kind", ["illegal-command", "unknown-sid", "atc-timeout"])
def test_cons_does_not_move_while_the_error_is_active(name, kind):
    """I-23."""
    made = scenario(kind, **{"costs.atc_timeout": "1ms", "vcpus": 3})
    if made.refuses(approach(name)):
        return
    run, steps = trail(made, name)
    moves = [(queue, t) for what, queue, *rest in steps if what == "stored" for t in rest[:1]]
    for stop in run.stops.rows():
        assert stop["stopped"] <= stop["told"] <= stop["handled"] < stop["resumed"]
        standing = [t for queue, t in moves if queue == (stop["guest"], stop["queue"])]
        assert not [t for t in standing if stop["stopped"] < t < stop["resumed"]]
        assert [t for t in standing if t > stop["resumed"]]


@pytest.mark.parametrize("reporting", ["strict", "upstream"])
@pytest.mark.parametrize("kind", ["illegal-command", "unknown-sid"])
@pytest.mark.parametrize("name", SOFTWARE)
def test_every_other_command_reaches_the_host_once_or_is_counted_as_lost(name, kind, reporting):
    """I-24, I-37."""
    made = scenario(kind, **{"host.reporting": reporting})
    run, steps = trail(made, name)
    sound, before = trail(made.but({"fault.kind": "none"}), name)
    issued, wanted = (sum(step[4].entries - 1 for step in each if step[0] == "host") for each in (steps, before))
    forwarded = (name, kind) == ("per-command", "unknown-sid")
    assert issued == wanted - run.counts.lost + 2 * forwarded  # as an ATC_INV it goes to both devices
    assert len(run.ops) == len(sound.ops)
    assert all(prod == cons for _, _, prod, cons in run.queues)
    if reporting == "strict":
        assert run.counts.lost == 0


def test_upstream_loses_what_was_gathered_before_the_entry_in_error():
    """The v2 patch on -ENODEV, and QEMU's RFC v3, which makes no ioctl when its loop ends at an illegal command."""
    lost = {
        (name, kind): inject(scenario(kind), [name])[name].lost
        for name in ("batched", "native-queue", "qemu-today")
        for kind in ("illegal-command", "unknown-sid")
    }
    assert {case for case, number in lost.items() if number} == {
        ("batched", "illegal-command"),
        ("native-queue", "unknown-sid"),
    }
    assert lost["batched", "illegal-command"] >= 4


# -- recovery ----------------------------------------------------------------------------------------------------------


def test_the_handler_waits_for_the_interrupts_of_the_first_vcpu():
    """Interrupts are off while a CPU waits for its CMD_SYNC.

    If that is the one that gets the interrupt, nobody replaces the entry before the driver gives up, and its delays
    have doubled to half a second by then.
    """
    alone = inject(scenario("illegal-command", **{"fault.vcpu": 0, "vcpus": 1}), ["bare-metal", "qemu-today", "vcmdq"])
    for effect in alone.effects.values():
        assert SYNC_TIMEOUT < effect.stood < 1.1 * SYNC_TIMEOUT
        assert effect.timeouts == 1
    made = scenario("illegal-command", **{"workload.think": "1ms"})
    for name in ("bare-metal", "vcmdq"):
        costs = made.costs
        effect = inject(made, [name])[name]
        (stop,) = effect.run.stops.rows()
        path = costs.lpi + (
            costs.sig + costs.wake + costs.lpi if name == "vcmdq" else 0
        )  # by the host's handler, and VMM
        assert stop["told"] - stop["stopped"] == path
        assert stop["handled"] - stop["told"] < 10_000
        assert stop["resumed"] - stop["handled"] == 3 * costs.mmio_r + costs.g_cmd  # GERROR, GERRORN, CONS; the entry
        assert effect.timeouts == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wait_of_more_than_a_second_is_given_up_and_reported(name):
    effect = inject(scenario("stalled-device", **{"fault.delay": "3s"}), [name])[name]
    assert effect.timeouts > 0
    assert effect.run.counts.timeouts == effect.timeouts
    assert effect.own > 0.9 * SYNC_TIMEOUT


@pytest.mark.parametrize("reporting", ["strict", "upstream"])
@pytest.mark.parametrize("name", ROWS)
def test_a_device_that_is_gone_for_a_minute_ends_some_time(name, reporting):
    """Its ATC_INV is overwritten after the first second, and then only CMD_SYNCs are left to time out."""
    made = scenario("atc-timeout", **{"host.reporting": reporting, "workload.ats_devices": 1, "workload.ops": 12})
    run = inject(made, [name])[name].run
    assert all(prod == cons for _, _, prod, cons in run.queues)
    assert run.counts.timeouts > 0


@pytest.mark.parametrize("name", ["ecmdq", "bare-metal", "batched", "short-path"])
def test_a_full_queue_that_stands_for_a_minute_is_waited_for(name):
    full = {"workload.pages": 64, "workload.ats_devices": 1, "smmu.queue_log2": 7, "smmu.host_queue_log2": 7}
    run = inject(scenario("atc-timeout", **full, **{"workload.ops": 12}), [name])[name].run
    assert all(prod == cons for _, _, prod, cons in run.queues)


@given(st.integers(0, 10**12), st.integers(2, 1000))
def test_a_wait_for_room_begins_its_delays_anew_after_each_second(moved, relax):
    """At most 2^20 us of delays, and the steps between them, follow the move."""
    seen = watch(0, moved, relax)
    assert moved <= seen <= moved + 1_100_000_000


# -- who waits ---------------------------------------------------------------------------------------------------------


def test_a_stalled_device_holds_up_every_guest_behind_the_same_queue():
    """I-18: the host's own queue is shared, a VCMDQ is not."""
    made = scenario("stalled-device", **{"guests": 3, "workload.ops": 60})
    stalled = inject(made, [*SOFTWARE, "vcmdq", approach("vcmdq").but(execution="parallel", name="parallel")])
    for name, effect in stalled.effects.items():
        if name in SOFTWARE:
            assert set(effect.guests) == {1, 2}
            assert effect.most > 50_000
        else:
            assert effect.most < 1_000
    assert stalled["parallel"].guests == {}


@pytest.mark.parametrize("kind", ["illegal-command", "unknown-sid", "stalled-device", "atc-timeout"])
def test_where_queue_and_engine_are_private_nobody_else_notices(kind):
    made = scenario(kind, guests=3, **{"costs.atc_timeout": "2ms"})
    row = approach("vcmdq").but(execution="parallel")
    run, sound = (observed(each, row, Clock()) for each in (made, made.but({"fault.kind": "none"})))

    def others(run):
        return [(op, latency) for op, latency in zip(run.ops.rows(), run.latencies, strict=True) if op["guest"]]

    assert sorted(map(repr, others(run))) == sorted(map(repr, others(sound)))


# -- as data -----------------------------------------------------------------------------------------------------------


def test_it_is_shown_and_given_as_data():
    result = inject(scenario("illegal-command"), ["batched", "vcmdq"])
    data = result.to_dict()
    assert list(data["effects"]) == ["batched", "vcmdq"]
    assert data["effects"]["vcmdq"]["seen"] == "CERROR_ILL"
    assert data["scenario"]["fault"]["kind"] == "illegal-command"
    assert "illegal-command in operation 9 of vCPU 0.1" in repr(result)
    assert "<table" in result._repr_html_()


def test_a_scenario_without_a_fault_is_refused():
    with pytest.raises(lab.InvalidInput, match=r"fault\.kind: 'none' is not valid"):
        inject(lab.Scenario())
    with pytest.raises(lab.InvalidInput, match="cannot be under vhost-iommu"):
        inject(scenario("unknown-sid"), ["vhost-iommu"])
