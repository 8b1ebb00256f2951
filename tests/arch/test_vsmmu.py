from __future__ import annotations

import json
import struct
from functools import partial
from itertools import chain
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.arch import FIELDS, HOST_ACCEPTS, CError, Command, IllegalCommand, decode, rewrite
from smmu_lab.arch.vsmmu import ENTRY_NUM_MAX, Vsmmu, always, array, marshalled, queue, vmm, worker

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
ROWS = {row["id"]: row for row in GOLDEN["commands"]}

VMID = 0x11
SIDS = {0x100: 0x2301, 0x101: 0x2302, 0x102: 0x55}
GUEST = Vsmmu(VMID, SIDS)
FOREIGN = 0x999
"""A virtual StreamID without a device."""

PASSED = HOST_ACCEPTS - {"TLBI_NSNH_ALL"}
"""What the host's queue may see of a guest: NSNH_ALL has become NH_ALL."""


def entry(name, **fields):
    return bytes(Command.of(name, **fields))


SYNC, STE = entry("CMD_SYNC"), entry("CFGI_STE", sid=0x100)
ILLEGAL = [bytes([7] + [0] * 15), bytes(16), bytes([0xFF] * 16), bytes([5, 4] + [0] * 14)]
"""Unknown opcodes, and a CFGI_CD with SSec = 1."""


def tlbis(n):
    return [entry("TLBI_NH_VA", va=place << 12, asid=1, tg=1, ttl=3) for place in range(n)]


# ---- streams of entries, and ways to the host


KNOWN = st.sampled_from(sorted(SIDS))


@st.composite
def commands(draw, names, sids=KNOWN):
    name = draw(st.sampled_from(sorted(names)))
    values = {}
    for f in FIELDS[name]:
        value = draw(sids) if f.name == "sid" else draw(st.integers(0, f.mask >> f.lo))
        values[f.name] = value << f.lo if f.address else value
    if name == "CFGI_ALL":
        values["range"] = 31
    return entry(name, **values)


def is_sound(raw):
    """Its range is none of those that Arm IHI 0070, 4.4.1.1 reserves."""
    try:
        f = decode(raw).fields
    except IllegalCommand:
        return True
    tg = f.get("tg", 0)
    return not (tg and f["num"] == f["scale"] == 0 and (f["ttl"] == 0 or (f["ttl"] == 1 and tg == 2)))


RAW = st.binary(min_size=16, max_size=16).filter(is_sound)
ACCEPTED = commands(HOST_ACCEPTS).filter(is_sound)
UNKNOWN = commands({"ATC_INV", "CFGI_CD", "CFGI_CD_ALL"}, st.integers(0x103, 2**32 - 1))
OTHERS = st.just(SYNC) | commands(FIELDS.keys() - HOST_ACCEPTS)
ENTRIES = ACCEPTED | ACCEPTED | OTHERS | UNKNOWN | st.sampled_from(ILLEGAL) | RAW
STREAMS = st.lists(ENTRIES, max_size=12)
HOLED = st.lists(ENTRIES | st.none(), max_size=12)

VMM = {
    f"vmm {handoff}{'' if lookup else ' without lookup'}": partial(vmm, handoff=handoff, lookup=lookup, group=2)
    for handoff in ("per-command", "array", "array-at-sync", "queue")
    for lookup in (True, False)
}
REPORTING = {"array": array, "array by 2": partial(array, group=2), "queue": queue, **VMM}
WORKERS = {
    f"worker {unsupported} {group}": partial(worker, unsupported=unsupported, group=group)
    for unsupported in ("skip", "error", "stop-and-fix")
    for group in (None, 2)
}
STRICT = {name: partial(way, reporting="strict") for name, way in REPORTING.items()} | WORKERS
UPSTREAM = {name: partial(way, reporting="upstream") for name, way in REPORTING.items()}
WAYS = {f"strict {name}": way for name, way in STRICT.items()} | UPSTREAM


def times_out(number):
    """The CMD_SYNC behind list `number` does not complete; None: all do."""
    lists = iter(range(1 << 30))
    return lambda commands: next(lists) != number


TIMEOUTS = st.none() | st.integers(0, 4)


def host(raw):
    """What the host issues for an entry; None if nothing."""
    try:
        return rewrite(decode(raw), VMID, SIDS) if raw is not None else None
    except (ValueError, LookupError):
        return None


def complete(seen):
    """Commands in the lists that completed, in order."""
    return list(chain(*(seen.issued[:-1] if seen.errno == "ETIMEDOUT" else seen.issued)))


def executed(seen):
    """Places below `consumed` for which nothing else is said."""
    return [p for p in range(seen.consumed) if p not in {*seen.skipped, *seen.emulated, *seen.lost}]


# ---- what must hold whatever the guest writes


@given(st.sampled_from(sorted(WAYS)), HOLED, TIMEOUTS)
def test_no_host_command_names_a_vmid_or_a_stream_of_somebody_else(name, entries, late):
    # I-15 and I-16
    for command in chain(*WAYS[name](GUEST, entries, completes=times_out(late)).issued):
        assert command.name in PASSED
        assert command.fields.get("vmid", VMID) == VMID
        assert command.fields.get("sid", 0x55) in SIDS.values()


@given(ENTRIES, st.booleans(), TIMEOUTS)
def test_marshalled_commands_name_nobody_else_either(raw, ats, late):
    try:
        issued = marshalled(GUEST, raw, times_out(late), ats).issued
    except IllegalCommand:
        return
    for command in chain(*issued):
        assert command.name in PASSED
        assert command.fields.get("vmid", VMID) == VMID
        assert command.fields.get("sid", 0x55) in SIDS.values()


@given(st.sampled_from(sorted(WAYS)), HOLED, TIMEOUTS)
def test_every_consumed_entry_is_executed_skipped_emulated_or_lost(name, entries, late):
    # I-37
    seen = WAYS[name](GUEST, entries, completes=times_out(late))
    others = [*seen.skipped, *seen.emulated, *seen.lost]
    assert len(set(others)) == len(others)
    assert all(0 <= place < seen.consumed <= len(entries) for place in others)
    assert all(host(entries[place]) for place in seen.lost)
    expected = [host(entries[place]) for place in executed(seen)]
    if name.startswith("strict"):
        assert complete(seen) == expected
    else:  # RFC v3 puts CONS at a command that it has executed
        assert complete(seen)[: len(expected)] == expected
        assert len(complete(seen)) <= len(expected) + (name.startswith("vmm array") and seen.cerror == CError.ILL)


@pytest.mark.parametrize("name", sorted(WAYS))
def test_a_reserved_range_is_refused_or_said_to_stop_the_hosts_queue(name):
    stretch = [entry("TLBI_NH_VA", asid=1, tg=1), SYNC]
    seen = WAYS[name](GUEST, stretch[:1] if "array" in name and "at-sync" not in name else stretch)
    if name.startswith("strict"):
        assert seen.issued in ((), ((),))
    else:
        assert [command.name for command in seen.stops_host] == ["TLBI_NH_VA"]


@given(st.sampled_from(sorted(STRICT)), HOLED, TIMEOUTS)
def test_a_strict_report_claims_nothing_that_is_not_complete(name, entries, late):
    # I-17
    seen = STRICT[name](GUEST, entries, completes=times_out(late))
    assert seen.lost == ()
    assert seen.consumed == len(complete(seen)) + len(seen.skipped) + len(seen.emulated)


@given(st.sampled_from(sorted(STRICT)), STREAMS)
def test_going_on_behind_the_entry_in_error_executes_every_other_command_once(name, entries):
    # I-24: the guest replaces the illegal command, here by going on behind it
    way, position, reached, in_error = STRICT[name], 0, [], []
    entries = [*entries, SYNC]
    while position < len(entries):
        seen = way(GUEST, entries[position:])
        reached += complete(seen)
        position += seen.consumed
        if seen.errno or seen.cerror:
            in_error.append(entries[position])
            position += 1
        else:
            assert position == len(entries)
    assert all(host(raw) is None for raw in in_error)
    assert reached == [command for command in map(host, entries) if command]


@given(st.lists(ACCEPTED | OTHERS, max_size=80))
def test_legal_commands_are_the_same_at_the_host_under_every_strict_way(entries):
    entries = [*entries, SYNC]
    expected = [command for command in map(host, entries) if command]
    for name, way in STRICT.items():
        if name in ("array", "array by 2", "worker error None", "worker error 2"):
            continue  # they end at what only the VMM may deal with
        seen = way(GUEST, entries)
        assert (complete(seen), seen.consumed, seen.errno, seen.cerror) == (expected, len(entries), "", 0), name


# ---- golden vectors


def raw(row):
    return struct.pack("<QQ", int(row["dw0"], 16), int(row["dw1"], 16))


@pytest.mark.parametrize("row", [r for r in ROWS.values() if "host_rewrite_of" in r], ids=lambda r: r["id"])
@pytest.mark.parametrize("name", sorted(set(STRICT) - {"vmm array-at-sync", "vmm array-at-sync without lookup"}))
def test_the_host_sees_the_golden_words(name, row):
    guest = Vsmmu(vmid=0x11, sids={0x100: 0x2301})
    ((command,),) = STRICT[name](guest, [raw(ROWS[row["host_rewrite_of"]])]).issued
    assert bytes(command) == raw(row)


def doorbells(n, d):
    """Stretches that a guest publishes for an unmap of n TLBIs and d ATC_INVs (Linux 7.2 arm_smmu_cmdq_batch_add)."""
    stretches = []
    for batch in (tlbis(n), [entry("ATC_INV", sid=0x100, addr=place << 12) for place in range(d)]):
        published = [batch[start : start + 64] for start in range(0, len(batch), 64)]
        if published:
            published[-1].append(SYNC)
        stretches += published
    return stretches


@pytest.mark.parametrize("row", GOLDEN["event_counts"]["rows"], ids=lambda r: f"{r['tlbi']}-{r['atc_inv']}")
def test_the_host_waits_for_the_golden_number_of_syncs(row):
    stretches = doorbells(row["tlbi"], row["atc_inv"])
    for design, handoff in (("qemu-today", "per-command"), ("batched", "array"), ("native-queue", "queue")):
        syncs = sum(len(vmm(GUEST, stretch, handoff).issued) for stretch in stretches)
        assert syncs == row["designs"][design]["host_syncs"], design
    whole = vmm(GUEST, [*chain(*stretches)], "array-at-sync")
    assert len(whole.issued) == row["designs"]["batched-at-sync"]["host_syncs"]


# ---- the array of today


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_an_array_takes_the_eight_commands_and_nothing_else(name):
    seen = array(GUEST, [entry(name, **({"sid": 0x100} if "sid" in {f.name for f in FIELDS[name]} else {}))])
    if name in HOST_ACCEPTS:
        assert (len(seen.issued), seen.consumed, seen.errno) == (1, 1, "")
    else:
        assert (seen.issued, seen.consumed, seen.errno) == ((), 0, "EIO")


@pytest.mark.parametrize("k", [1, 2, 62, 63, 64, 65, 126, 127, 511, 1000])
def test_an_array_of_k_waits_for_one_host_sync_in_63_commands(k):
    issued = array(GUEST, tlbis(k)).issued
    assert len(issued) == ceil(k / 63)
    assert {len(commands) for commands in issued[:-1]} <= {63}


@pytest.mark.parametrize("bad", [SYNC, STE, ILLEGAL[0], entry("ATC_INV", sid=FOREIGN)])
@pytest.mark.parametrize("j", [0, 1, 62, 63, 64, 125, 126, 130])
def test_upstream_counts_commands_as_handled_that_it_did_not_issue(bad, j):
    entries = [*tlbis(j), bad, *tlbis(3)]
    seen = array(GUEST, entries)
    assert (seen.errno, seen.consumed, len(complete(seen))) == ("EIO", j, j - j % 63)
    assert seen.lost == (*range(j - j % 63, j),)
    seen = array(GUEST, entries, "strict")
    assert (seen.errno, seen.consumed, len(complete(seen)), seen.lost) == ("EIO", j, j, ())


@pytest.mark.parametrize(("k", "late", "done"), [(64, 0, 62), (64, 1, 63), (126, 1, 125), (130, 2, 129), (1, 0, 0)])
def test_upstream_counts_all_but_the_last_of_a_list_that_timed_out(k, late, done):
    seen = array(GUEST, tlbis(k), completes=times_out(late))
    assert (seen.errno, seen.consumed, len(seen.issued)) == ("ETIMEDOUT", done, late + 1)
    assert seen.lost == (*range(63 * late, done),)
    seen = array(GUEST, tlbis(k), "strict", times_out(late))
    assert (seen.errno, seen.consumed, seen.lost) == ("ETIMEDOUT", 63 * late, ())


@pytest.mark.parametrize(
    ("entries", "arguments", "errno"),
    [
        ([], {}, "EINVAL"),
        ([SYNC], {"reserved": 1}, "EOPNOTSUPP"),
        ([SYNC], {"data_type": 0}, "EINVAL"),
        ([b""], {}, "EINVAL"),
        ([bytes(4097)], {}, "EINVAL"),
        ([SYNC] * (ENTRY_NUM_MAX + 1), {}, "EINVAL"),
        ([*tlbis(2), None], {}, "EFAULT"),
        ([tlbis(1)[0] + b"\0\1"], {}, "E2BIG"),
    ],
    ids=["none", "reserved", "data type", "length 0", "length 4097", "too many", "unreadable", "unknown bytes"],
)
def test_an_array_is_refused_before_any_command_is_looked_at(entries, arguments, errno):
    seen = array(GUEST, entries, **arguments)
    assert (seen.issued, seen.consumed, seen.errno, seen.lost) == ((), 0, errno, ())


def test_without_memory_entry_num_stays_what_it_was():
    seen = array(GUEST, tlbis(3), memory=False)
    assert (seen.issued, seen.consumed, seen.errno, seen.lost) == ((), 3, "ENOMEM", (0, 1, 2))
    assert array(GUEST, tlbis(3), "strict", memory=False).consumed == 0


def test_an_entry_that_is_longer_or_shorter_than_16_bytes_is_padded_or_cut():
    assert array(GUEST, [entry("TLBI_NH_ALL")[:8]]).issued == ((Command.of("TLBI_NH_ALL", vmid=VMID),),)
    assert array(GUEST, [entry("TLBI_NH_ALL") + bytes(8)]).issued == ((Command.of("TLBI_NH_ALL", vmid=VMID),),)


# ---- the kernel reads the queue


def test_a_queue_without_entries_is_an_error():
    assert queue(GUEST, []).errno == "EINVAL"
    assert vmm(GUEST, [], "queue").errno == ""


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - HOST_ACCEPTS))
def test_a_queue_passes_over_what_it_does_not_support(name):
    seen = queue(GUEST, [entry("TLBI_NH_ALL"), entry(name), entry("TLBI_NSNH_ALL")])
    assert seen.issued == ((Command.of("TLBI_NH_ALL", vmid=VMID),) * 2,)
    assert (seen.consumed, seen.errno, seen.cerror, seen.skipped) == (3, "", CError.NONE, (1,))


def test_a_queue_of_nothing_for_the_host_is_still_a_host_sync():
    assert queue(GUEST, [SYNC, STE]).issued == ((),)


def test_a_queue_is_one_list_whatever_its_length():
    assert [len(commands) for commands in queue(GUEST, [*tlbis(200), SYNC]).issued] == [200]


@pytest.mark.parametrize("way", [queue, VMM["vmm queue"]])
def test_a_queue_loses_all_before_an_unknown_stream(way):
    entries = [*tlbis(2), SYNC, entry("CFGI_CD", sid=FOREIGN), *tlbis(1)]
    seen = way(GUEST, entries, reporting="upstream")
    assert (seen.issued, seen.consumed, seen.errno, seen.cerror) == ((), 3, "ENODEV", CError.ILL)
    assert (seen.skipped, seen.lost) == ((2,), (0, 1))
    seen = way(GUEST, entries, reporting="strict")
    assert (len(complete(seen)), seen.consumed, seen.cerror, seen.lost) == (2, 3, CError.ILL, ())


def test_a_queue_writes_nothing_back_if_it_cannot_be_read():
    seen = queue(GUEST, [*tlbis(2), None])
    assert (seen.issued, seen.consumed, seen.errno, seen.cerror) == ((), 0, "EFAULT", CError.NONE)
    seen = queue(GUEST, [*tlbis(2), None], "strict")
    assert (len(complete(seen)), seen.consumed, seen.errno, seen.cerror) == (2, 2, "EFAULT", CError.ABT)


@pytest.mark.parametrize("reporting", ["upstream", "strict"])
def test_the_guest_retries_an_entry_that_cannot_be_read(reporting):
    # Linux 7.2 __arm_smmu_cmdq_skip_err: CERROR_ABT is "Retrying command fetch"
    seen = vmm(GUEST, [*tlbis(2), None], "queue", reporting)
    assert (seen.cerror, seen.errno, seen.lost) == (CError.ABT, "EFAULT", ())


def test_a_queue_that_times_out_has_moved_cons_to_prod():
    entries = [STE, *tlbis(2), SYNC]
    seen = queue(GUEST, entries, completes=times_out(0))
    assert (seen.errno, seen.consumed, seen.lost, seen.skipped) == ("ETIMEDOUT", 4, (1, 2), (0, 3))
    seen = queue(GUEST, entries, "strict", times_out(0))
    assert (seen.errno, seen.consumed, seen.lost, seen.skipped) == ("ETIMEDOUT", 1, (), (0,))


# ---- one decoded command


def sids(commands):
    return [command.fields["sid"] for command in commands]


@pytest.mark.parametrize("name", ["TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_NH_ASID", "TLBI_NH_ALL"])
@pytest.mark.parametrize("ats", [True, False])
def test_a_marshalled_tlbi_takes_the_vmid_and_drags_an_atc_inv_to_every_device_along(name, ats):
    by_address = name in ("TLBI_NH_VA", "TLBI_NH_VAA")
    fields = {"va": 0x8000, "num": 3, "tg": 1} if by_address else {}
    (tlbi, *atc) = marshalled(GUEST, entry(name, vmid=0x77, **fields), ats=ats).issued
    assert tlbi == (Command.of(name, vmid=VMID, **fields),)
    assert len(atc) == ats
    for commands in atc:
        assert sids(commands) == [*SIDS.values()]
        cover = {"addr": 0x8000, "size": 2} if by_address else {"addr": 0, "size": 52}
        assert all(command.fields.items() >= {**cover, "ssv": 0}.items() for command in commands)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**20 - 1), st.integers(0, 63))
def test_a_marshalled_atc_inv_goes_to_every_device_whichever_it_names(sid, ssid, size):
    (commands,) = marshalled(GUEST, entry("ATC_INV", sid=sid, ssv=1, ssid=ssid, size=size)).issued
    assert sids(commands) == [*SIDS.values()]
    assert {command.fields["ssid"] for command in commands} == {ssid}
    assert {command.fields["size"] for command in commands} == {min(size, 52)}


def test_a_marshalled_cfgi_cd_goes_to_every_device_as_a_leaf():
    (commands,) = marshalled(GUEST, entry("CFGI_CD", sid=FOREIGN, ssid=5)).issued
    assert commands == tuple(Command.of("CFGI_CD", sid=sid, ssid=5, leaf=1) for sid in SIDS.values())
    (commands,) = marshalled(GUEST, entry("CFGI_CD_ALL", sid=0x100)).issued
    assert commands == tuple(Command.of("CFGI_CD", sid=sid, leaf=1) for sid in SIDS.values())


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - HOST_ACCEPTS | {"TLBI_NSNH_ALL"}))
def test_a_marshalled_command_that_is_not_handled_is_lost_without_a_word(name):
    seen = marshalled(GUEST, entry(name))
    assert (seen.issued, seen.consumed, seen.errno, seen.lost) == ((), 1, "", (0,))


@pytest.mark.parametrize("name", ["TLBI_NH_VA", "TLBI_NH_VAA"])
@pytest.mark.parametrize(("tg", "bitmap", "lost"), [(0, 0x1000, True), (1, 0x1000, False), (3, 0x1000, True)])
def test_a_marshalled_tlbi_needs_a_granule_that_the_smmu_has(name, tg, bitmap, lost):
    assert bool(marshalled(GUEST, entry(name, tg=tg), pgsize_bitmap=bitmap).lost) == lost


@given(st.lists(ACCEPTED | OTHERS | UNKNOWN | st.sampled_from(ILLEGAL), max_size=12), TIMEOUTS)
def test_with_marshalled_commands_the_guest_hears_of_illegal_entries_only(entries, late):
    seen = vmm(GUEST, entries, "marshalled", completes=times_out(late))
    bad = next((place for place, raw in enumerate(entries) if raw in ILLEGAL), len(entries))
    assert (seen.consumed, seen.errno) == (bad, "")
    assert seen.cerror == (CError.ILL if bad < len(entries) else CError.NONE)
    assert seen.emulated == tuple(p for p in range(bad) if decode(entries[p]).name not in HOST_ACCEPTS)


@pytest.mark.parametrize("late", [0, 1])
def test_a_marshalled_command_that_times_out_is_lost(late):
    assert marshalled(GUEST, entry("TLBI_NH_ALL"), times_out(late)).lost == (0,)


# ---- the VMM

HANDOFFS = ("per-command", "array", "array-at-sync")


@pytest.mark.parametrize("handoff", HANDOFFS)
@pytest.mark.parametrize("name", sorted(FIELDS.keys() - HOST_ACCEPTS))
def test_the_vmm_deals_itself_with_what_the_host_does_not_take(handoff, name):
    seen = vmm(GUEST, [entry("TLBI_NH_ALL"), entry(name), SYNC], handoff)
    assert seen.issued == ((Command.of("TLBI_NH_ALL", vmid=VMID),),)
    assert (seen.consumed, seen.cerror, seen.emulated) == (3, CError.NONE, (1, 2))


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_the_vmm_drops_a_command_for_a_stream_without_a_device(handoff):
    entries = [*tlbis(1), entry("ATC_INV", sid=FOREIGN), *tlbis(1), SYNC]
    seen = vmm(GUEST, entries, handoff)
    assert (len(complete(seen)), seen.consumed, seen.cerror, seen.skipped) == (2, 4, CError.NONE, (1,))
    seen = vmm(GUEST, entries, handoff, "strict", lookup=False)
    assert (len(complete(seen)), seen.consumed, seen.errno, seen.cerror) == (1, 1, "EIO", CError.ILL)


@pytest.mark.parametrize("handoff", HANDOFFS)
@pytest.mark.parametrize(("bad", "cerror"), [*((raw, CError.ILL) for raw in ILLEGAL), (None, CError.ABT)])
def test_the_vmm_hands_over_before_it_stops_at_a_bad_entry(handoff, bad, cerror):
    seen = vmm(GUEST, [*tlbis(2), bad, *tlbis(1)], handoff, "strict")
    assert (len(complete(seen)), seen.consumed, seen.errno, seen.cerror) == (2, 2, "", cerror)


def test_rfc_v3_loses_what_it_gathered_before_a_bad_entry():
    seen = vmm(GUEST, [*tlbis(2), SYNC, ILLEGAL[0]], "array")
    assert (seen.issued, seen.consumed, seen.cerror) == ((), 3, CError.ILL)
    assert (seen.emulated, seen.lost) == ((2,), (0, 1))


def test_rfc_v3_blames_the_command_before_the_failing_one():
    entries = [*tlbis(70), entry("ATC_INV", sid=FOREIGN)]
    seen = vmm(GUEST, entries, "array", lookup=False)
    assert (seen.errno, seen.consumed, seen.cerror) == ("EIO", 69, CError.ILL)
    assert seen.lost == (*range(63, 69),)
    assert vmm(GUEST, entries, "array", "strict", lookup=False).consumed == 70
    assert vmm(GUEST, entries[70:], "array", lookup=False).consumed == 0


@pytest.mark.parametrize("handoff", [*HANDOFFS, "queue"])
def test_the_vmm_turns_a_timeout_into_cerror_ill(handoff):
    seen = vmm(GUEST, [SYNC, *tlbis(2), SYNC], handoff, "strict", times_out(0))
    assert (seen.errno, seen.consumed, seen.cerror) == ("ETIMEDOUT", 1, CError.ILL)


def test_commands_are_held_until_a_cmd_sync_follows():
    seen = vmm(GUEST, [*tlbis(2), STE, SYNC, STE, *tlbis(3), STE], "array-at-sync")
    assert ([len(commands) for commands in seen.issued], seen.consumed, seen.emulated) == ([2], 5, (2, 3, 4))


@pytest.mark.parametrize("group", [63, 64, 127])
def test_a_guest_batch_of_64_is_one_list_or_two(group):
    lists = [len(commands) for commands in vmm(GUEST, [*tlbis(64), SYNC], "array", group=group).issued]
    assert lists == ([63, 1] if group == 63 else [64])


def test_per_command_is_one_list_for_each_command():
    assert [len(commands) for commands in vmm(GUEST, [*tlbis(5), SYNC], "per-command").issued] == [1] * 5


# ---- a worker in the kernel


@pytest.mark.parametrize(
    ("unsupported", "consumed", "cerror", "skipped", "emulated"),
    [
        ("skip", 4, CError.ILL, (1, 2), ()),
        ("error", 2, CError.ILL, (1,), ()),
        ("stop-and-fix", 5, CError.ILL, (1, 4), (2,)),
    ],
)
def test_a_worker_meets_what_it_may_not_run(unsupported, consumed, cerror, skipped, emulated):
    entries = [*tlbis(1), SYNC, STE, *tlbis(1), entry("ATC_INV", sid=FOREIGN), ILLEGAL[0], *tlbis(1)]
    seen = worker(GUEST, entries, unsupported)
    assert (seen.consumed, seen.cerror, seen.errno) == (consumed, cerror, "")
    assert (seen.skipped, seen.emulated, seen.lost) == (skipped, emulated, ())
    assert len(complete(seen)) == sum(raw in tlbis(1) for raw in entries[:consumed])


def test_a_worker_that_skips_passes_over_illegal_entries_too():
    seen = worker(GUEST, [*ILLEGAL, *tlbis(1)])
    assert (seen.consumed, seen.cerror, seen.skipped) == (5, CError.NONE, (0, 1, 2, 3))


@pytest.mark.parametrize("unsupported", ["skip", "error", "stop-and-fix"])
def test_a_worker_asks_nobody_about_a_cmd_sync(unsupported):
    seen = worker(GUEST, [*tlbis(2), SYNC, *tlbis(2), SYNC], unsupported)
    assert ([len(commands) for commands in seen.issued], seen.consumed, seen.skipped) == ([4], 6, (2, 5))


def test_a_worker_issues_what_came_before_a_fix_first():
    seen = worker(GUEST, [*tlbis(3), STE, *tlbis(2), SYNC], "stop-and-fix", group=2)
    assert [len(commands) for commands in seen.issued] == [2, 1, 2]


@pytest.mark.parametrize("unsupported", ["skip", "error", "stop-and-fix"])
def test_a_worker_stops_with_cerror_abt_where_memory_does_not_answer(unsupported):
    seen = worker(GUEST, [*tlbis(1), None, *tlbis(1)], unsupported)
    assert (len(complete(seen)), seen.consumed, seen.cerror) == (1, 1, CError.ABT)


def test_a_worker_issues_a_list_again_that_timed_out():
    entries = [SYNC, *tlbis(3), SYNC]
    seen = worker(GUEST, entries, completes=times_out(1), group=2)
    assert (seen.consumed, seen.errno, seen.cerror) == (3, "ETIMEDOUT", CError.ATC_INV_SYNC)
    assert complete(worker(GUEST, entries[seen.consumed :])) == [host(entries[3])]


# ---- arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Vsmmu(0x10000, {}), "^vmid: 0x10000 is not valid: an integer, 0 to 0xffff$"),
        (lambda: Vsmmu("1", {}), "^vmid: '1' is not valid: an integer, 0 to 0xffff$"),
        (lambda: Vsmmu(1, {-1: 8}), "^sids: -0x1 is not valid: an integer, 0 to 0xffffffff$"),
        (lambda: Vsmmu(1, {8: 1 << 32}), "^sids: 0x100000000 is not valid: an integer, 0 to 0xffffffff$"),
        (lambda: array(GUEST, [SYNC], group=0), "^group: 0 is not valid: 1 or more$"),
        (lambda: worker(GUEST, [SYNC], group=0), "^group: 0 is not valid: 1 or more$"),
        (lambda: vmm(GUEST, [SYNC], "array", group=-1), "^group: -1 is not valid: 1 or more$"),
        (lambda: array(GUEST, [SYNC, b""]), r"^entries: lengths of \[0, 16\] bytes are not valid: an array has one"),
        (lambda: queue(GUEST, [b""]), "^raw16: 0 bytes are not valid: an entry has 16$"),
        (lambda: array(GUEST, [SYNC], "Strict"), "^reporting: 'Strict' is not valid: 'strict', 'upstream'$"),
        (lambda: queue(GUEST, [SYNC], ""), "^reporting: '' is not valid: 'strict', 'upstream'$"),
        (lambda: worker(GUEST, [SYNC], "fix"), "^unsupported: 'fix' is not valid: 'skip', 'error', 'stop-and-fix'$"),
        (lambda: vmm(GUEST, [SYNC], "batched"), "^handoff: 'batched' is not valid: 'marshalled', 'per-command', "),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_valid(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_by_default_every_cmd_sync_completes():
    assert always([]) is always([Command.of("TLBI_NH_ALL")]) is True
