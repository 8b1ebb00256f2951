"""Whatever a guest writes, under whatever row: nobody else's VMID or device, every entry accounted for, one model.

The rows are those of the catalogue and the variants of `tests.sim.test_twin`.
"""

import random
import struct
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smmu_lab.arch import FIELDS, HOST_ACCEPTS, VCMDQ_ACCEPTS, CError, Command, IllegalCommand, decode
from smmu_lab.arch.vsmmu import Vsmmu
from smmu_lab.scenario import Scenario, Smmu, Unmaps, approach, approaches, costs
from smmu_lab.sim import simulate
from smmu_lab.sim.passage import passage, queues
from smmu_lab.sim.recovery import ASKS, FIXES, FORWARDS, PASSES, STOPS, reaction
from smmu_lab.study import isolation
from smmu_lab.study.evidence import observe
from smmu_lab.study.isolation import GUESTS, foreign, same_commands
from tests.sim import test_twin as twin

ROWS = {
    **{row.name: row for row in approaches()},
    **twin.VARIANTS,
    **{
        f"{name} unsupported={value}": approach(name).but(unsupported=value)
        for name in ("short-path", "short-path-sync")
        for value in ("error", "skip")
    },
}
COMMANDS = {name: row for name, row in ROWS.items() if row.front == "smmu-commands"}
NESTED = {name: row for name, row in ROWS.items() if row.nested}

SYNC = bytes(Command.of("CMD_SYNC"))
ILLEGAL, UNKNOWN = bytes([7] + [0] * 15), bytes(Command.of("ATC_INV", sid=0x77))


# -- what guests write -------------------------------------------------------------------------------------------------

SIDS = st.sampled_from([8, 16, 24, 32, 0x2301, 0x2401, 8 | 1 << 20])
VMIDS = st.sampled_from([0, 0x11, 0x12, 0xFFFF])


@st.composite
def of(draw, names):
    """A legal command with any values, names of others among them."""
    name = draw(st.sampled_from(sorted(names)))
    values = {}
    for field in FIELDS[name]:
        value = draw({"sid": SIDS, "vmid": VMIDS}.get(field.name, st.integers(0, field.mask >> field.lo)))
        values[field.name] = value << field.lo if field.address else value
    return bytes(Command.of(name, **values | ({"range": 31} if name == "CFGI_ALL" else {})))


ENTRIES = st.one_of(
    of(HOST_ACCEPTS),
    of(VCMDQ_ACCEPTS),
    of(FIELDS),
    st.just(SYNC),
    st.binary(min_size=16, max_size=16),
    st.builds(lambda op, raw: bytes([op]) + raw, st.sampled_from(range(0x50)), st.binary(min_size=15, max_size=15)),
)
STREAMS = st.lists(ENTRIES, max_size=10)
REPORTINGS = st.sampled_from(["strict", "upstream"])
TIMEOUTS = st.none() | st.integers(0, 4)


def times_out(number):
    """List `number` of the host's does not complete; None: all do."""
    lists = iter(range(1 << 30))
    return lambda commands: next(lists) != number


# -- I-15, I-16 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", NESTED.values(), ids=NESTED)
@settings(max_examples=30)
@given(STREAMS, st.sampled_from([0, 1]), REPORTINGS, TIMEOUTS)
def test_nothing_of_others_and_nothing_else_reaches_the_host(row, entries, number, reporting, late):
    """Told by bits: the VMID of a TLBI, the StreamID of what names one."""
    guest = GUESTS[number]
    overlay = row.executes_directly and row.unsupported == "stop-and-fix"
    for way, _ in queues(row, ()):
        for command in chain(*passage(way, guest, entries, reporting, times_out(late)).issued):
            (dw0,) = struct.unpack("<Q", bytes(command)[:8])
            match dw0 & 0xFF:
                case 0x11 | 0x12:
                    assert dw0 >> 32 & 0xFFFF == guest.vmid
                case 0x10 | 0x13 if not way.executes_directly or overlay:
                    assert dw0 >> 32 & 0xFFFF == guest.vmid
                case 0x05 | 0x06 if not way.executes_directly or overlay:
                    assert dw0 >> 32 in guest.sids.values()
                case 0x40:
                    assert dw0 >> 32 in guest.sids.values()
                case 0x46 if way.executes_directly:
                    assert not dw0 >> 12 & 3
                case opcode:
                    pytest.fail(f"{opcode:#x} reaches the host")
            assert not foreign(way, guest, command)


@pytest.mark.parametrize("name", ["vhost-iommu", "virtio-iommu"])
@given(STREAMS)
def test_where_the_host_makes_its_own_commands_none_of_the_guests_reaches_it(name, entries):
    assert not passage(approach(name), GUESTS[0], entries).issued


# -- conservation ------------------------------------------------------------------------------------------------------


def reaches(row, guest, raw):
    """What becomes of an entry that runs, told by bits."""
    dw0, dw1 = struct.unpack("<QQ", raw)
    opcode = dw0 & 0xFF
    if row.on_metal or opcode == 0x46:
        return Command(dw0, dw1)
    if opcode == 0x30:
        return Command(0x10 | guest.vmid << 32, 0)
    if opcode in (0x10, 0x11, 0x12, 0x13):
        return Command(dw0 & ~(0xFFFF << 32) | guest.vmid << 32, dw1)
    return Command(dw0 & 0xFFFFFFFF | guest.sids[dw0 >> 32] << 32, dw1)


@pytest.mark.parametrize("row", COMMANDS.values(), ids=COMMANDS)
@settings(max_examples=30)
@given(STREAMS, REPORTINGS, TIMEOUTS)
def test_what_is_consumed_is_executed_skipped_emulated_or_lost(row, entries, reporting, late):
    """I-37. Executed is what the host has seen to complete, or will (the list that takes the blame is not)."""
    guest = GUESTS[0]
    seen = passage(row, guest, entries, reporting, times_out(late))
    others = [*seen.skipped, *seen.emulated, *seen.lost]
    assert len(set(others)) == len(others)
    assert all(0 <= place < seen.consumed <= len(entries) for place in others)
    if row.handoff == "marshalled":  # one entry becomes lists for all devices
        return
    executed = [place for place in range(seen.consumed) if place not in others]
    if row.executes_directly:
        executed = sorted({*executed, *seen.lost})  # an ATC_INV that nobody answered ran all the same
    ran = list(chain(*seen.issued))
    if seen.errno == "ETIMEDOUT":
        assert ran[: len(executed)] == [reaches(row, guest, entries[place]) for place in executed][: len(ran)]
    else:
        assert ran == [reaches(row, guest, entries[place]) for place in executed]
    assert bool(seen.cerror) <= (seen.consumed < len(entries))


@pytest.mark.parametrize("row", COMMANDS.values(), ids=COMMANDS)
@settings(max_examples=20)
@given(STREAMS)
def test_without_an_error_all_is_consumed_but_what_waits_for_its_cmd_sync(row, entries):
    seen = passage(row, GUESTS[0], entries)
    if not seen.cerror and not seen.errno:
        assert seen.consumed == len(entries) or (
            row.handoff == "array-at-sync" and SYNC not in entries[seen.consumed :]
        )


# -- one model: errors -------------------------------------------------------------------------------------------------

MANY = 6
PLACES = 0, 3, MANY
KINDS = {"illegal-command": ILLEGAL, "unknown-sid": UNKNOWN}


def stretch(bad=None, place=0):
    """A list of TLBIs with an entry in error at a place, and a CMD_SYNC."""
    entries = [bytes(Command.of("TLBI_NH_VA", va=k << 12, tg=1, ttl=3, leaf=1)) for k in range(MANY)]
    return [*entries[:place], *([] if bad is None else [bad]), *entries[place:], SYNC]


def observed_reaction(row, bad, reporting):
    """What `passage` does at an entry in the middle of a list, in the words of `recovery`."""
    place = MANY // 2
    guest = Vsmmu(0x11, {8: 0x2301})
    seen = passage(row, guest, stretch(bad, place), reporting)
    without = passage(row, guest, stretch())
    if seen.cerror:
        assert (seen.consumed, seen.cerror) == (place, CError.ILL)
        return STOPS
    assert seen.consumed == MANY + 2
    if place not in (*seen.skipped, *seen.emulated):
        assert len(list(chain(*seen.issued))) > len(list(chain(*without.issued)))
        return FORWARDS
    if seen.issued != without.issued:  # what is before it goes first, and so ends a list
        assert tuple(chain(*seen.issued)) == tuple(chain(*without.issued))
        return FIXES
    return PASSES


@pytest.mark.parametrize("reporting", ["strict", "upstream"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", COMMANDS.values(), ids=COMMANDS)
def test_the_engine_and_the_passage_do_the_same_at_an_entry_in_error(row, kind, reporting):
    """`ASKS` is a stop as well: the VMM, asked, finds that it is the guest's error.

    An overlaid VCMDQ itself stops at everything; then the hypervisor drops what names no device.
    """
    if row.on_metal and kind == "unknown-sid":
        assert observed_reaction(row, KINDS[kind], reporting) == FORWARDS, "there are no virtual StreamIDs"
        return
    expected = {ASKS: STOPS}.get(reaction(row, kind), reaction(row, kind))
    if row.host_queue == "vcmdq" and row.unsupported == "stop-and-fix" and kind == "unknown-sid":
        expected = FIXES
    assert observed_reaction(row, KINDS[kind], reporting) == expected


def struck(row, **fault):
    """Counts of the engine when a fault strikes one unmap, alone in its queue."""
    load = Unmaps(pages=MANY, ops=1, ats_devices=fault.pop("devices", 0), think=1_000_000)
    changes = {"host.reporting": fault.pop("reporting", "upstream")} | {f"fault.{name}": v for name, v in fault.items()}
    return simulate(Scenario(workload=load, smmu=Smmu(ril=False)).but(changes), row).counts


@pytest.mark.parametrize("reporting", ["strict", "upstream"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", NESTED.values(), ids=NESTED)
def test_the_engine_and_the_passage_lose_the_same_commands(row, kind, reporting):
    for place in PLACES:
        seen = passage(row, Vsmmu(0x11, {}), stretch(KINDS[kind], place), reporting)
        counts = struck(row, kind=kind, after=place, reporting=reporting)
        assert (counts.lost, counts.errors) == (len(seen.lost), bool(seen.cerror))


HARDWARE = {name: row for name, row in COMMANDS.items() if row.executes_directly}


@pytest.mark.parametrize("row", HARDWARE.values(), ids=HARDWARE)
def test_the_engine_and_the_passage_lose_what_no_device_answers(row):
    """On a queue of the hardware: in the list of ATC_INVs of an unmap the first device is gone."""
    atc_invs = [bytes(Command.of("ATC_INV", sid=sid)) for sid in (8, 16)]
    gone = {8, 0x2301}
    seen = passage(row, GUESTS[0], [*atc_invs, SYNC], completes=lambda atc_inv: atc_inv[0].fields["sid"] not in gone)
    assert (seen.consumed, seen.cerror, seen.lost) == (2, CError.ATC_INV_SYNC, (0,))
    counts = struck(row, kind="atc-timeout", devices=2)
    assert (counts.lost, counts.errors) == (1, 1)


# -- one model: lists --------------------------------------------------------------------------------------------------

LISTS = {name: row for name, row in NESTED.items() if not callable(row.consumer)}


@pytest.mark.parametrize("row", LISTS.values(), ids=LISTS)
def test_real_commands_become_the_lists_that_the_engine_issues(row, monkeypatch):
    monkeypatch.setattr(isolation, "MOST_ENTRIES", 1 << 30)
    monkeypatch.setattr(twin, "costs", lambda name: costs(name).but(atc_timeout=1))  # by `twin.TICK` beyond an hour
    for seed in range(6):
        scenario = twin.possible(twin.random_scenario(seed, **{"smmu.errata": "none", "guests": 1}), row)
        case = observe(scenario, row)
        assert case.error is None
        assert not list(same_commands(case)), (seed, list(same_commands(case)))


# -- the streams of check_approach -------------------------------------------------------------------------------------


def test_the_streams_try_every_command_with_others_names():
    tried, illegal = {}, 0
    for entry in chain(*isolation.streams(random.Random(1))):
        try:
            command = decode(entry)
        except IllegalCommand:
            illegal += 1
            continue
        tried.setdefault(command.name, []).append(command.fields)
    assert tried.keys() == FIELDS.keys()
    assert illegal > 5
    for name, values in tried.items():
        for field, own in (("vmid", {guest.vmid for guest in GUESTS}), ("sid", {*GUESTS[0].sids} & {*GUESTS[1].sids})):
            if field in values[0]:
                assert {each[field] for each in values} - own, name
