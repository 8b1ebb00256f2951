"""A guest's real entries under every row: who rewrites them, what is emulated, and where a queue stops."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.arch import CError, Command, decode
from smmu_lab.arch.consumer import Refused
from smmu_lab.arch.vsmmu import Vsmmu
from smmu_lab.scenario import approach, approaches
from smmu_lab.sim.passage import passage, queues, vcmdq_takes

GUEST = Vsmmu(vmid=0x11, sids={8: 0x2301, 16: 0x2302})
SYNC = bytes(Command.of("CMD_SYNC"))
TLBI = bytes(Command.of("TLBI_NH_VA", vmid=0x99, va=0x1000, tg=1, ttl=3, leaf=1))
ATC = bytes(Command.of("ATC_INV", sid=8, addr=0x1000))
NSNH, STE = bytes(Command.of("TLBI_NSNH_ALL")), bytes(Command.of("CFGI_STE", sid=8))
UNKNOWN, ILLEGAL = bytes(Command.of("ATC_INV", sid=9)), bytes([7] + [0] * 15)

NATIVE = [row.name for row in approaches() if row.nested]
IN_HARDWARE = [row.name for row in approaches() if row.executes_directly]
METAL = ["bare-metal", "ecmdq"]


def names(seen):
    return [[command.name for command in commands] for commands in seen.issued]


def dw0(command):
    return struct.unpack("<Q", bytes(command)[:8])[0]


# -- what is executed --------------------------------------------------------------------------------------------------

LISTS = {
    "per-command": [["TLBI_NH_VA"], ["ATC_INV", "ATC_INV"], ["ATC_INV", "ATC_INV"]],  # to all devices of the domain
    "qemu-today": [["TLBI_NH_VA"], ["ATC_INV"]],
    "batched": [["TLBI_NH_VA", "ATC_INV"]],
    "batched-at-sync": [["TLBI_NH_VA"], ["ATC_INV"]],
    "native-queue": [["TLBI_NH_VA", "ATC_INV"]],
    "short-path": [["TLBI_NH_VA", "ATC_INV"]],
    "short-path-trapped-cons": [["TLBI_NH_VA", "ATC_INV"]],
    "short-path-sync": [["TLBI_NH_VA", "ATC_INV"]],
    "short-path-polled": [["TLBI_NH_VA", "ATC_INV"]],
    "vhost-iommu": [],
    "virtio-iommu": [],
    "vcmdq": [["TLBI_NH_VA", "CMD_SYNC"], ["ATC_INV", "CMD_SYNC"]],
    "vcmdq-overlay": [["TLBI_NH_VA", "CMD_SYNC"], ["ATC_INV", "CMD_SYNC"]],
    "vcmdq-emulated": [["TLBI_NH_VA", "ATC_INV"]],
    "vcmdq-emulated-vmm": [["TLBI_NH_VA"], ["ATC_INV"]],
    "ecmdq": [["TLBI_NH_VA", "CMD_SYNC"], ["ATC_INV", "CMD_SYNC"]],
    "bare-metal": [["TLBI_NH_VA", "CMD_SYNC"], ["ATC_INV", "CMD_SYNC"]],
}
"""Lists that reach the host's queue, or the hardware, by PATHS sections 2 and 3."""


@pytest.mark.parametrize("row", approaches(), ids=lambda row: row.name)
def test_a_strict_unmap_with_ats_becomes_the_lists_of_its_path(row):
    seen = passage(row, GUEST, [TLBI, SYNC, ATC, SYNC])
    assert names(seen) == LISTS[row.name]
    assert seen.consumed == (4 if row.front == "smmu-commands" else 0)
    assert not seen.cerror


@pytest.mark.parametrize("name", NATIVE)
def test_vmid_and_stream_become_the_guests_own(name):
    flat = [command for commands in passage(approach(name), GUEST, [TLBI, ATC, SYNC]).issued for command in commands]
    assert dw0(flat[0]) >> 32 & 0xFFFF == 0x11
    assert {dw0(command) >> 32 for command in flat if command.name == "ATC_INV"} <= {0x2301, 0x2302}
    assert dw0(next(command for command in flat if command.name == "ATC_INV")) >> 32 == 0x2301


@pytest.mark.parametrize("name", METAL)
def test_on_metal_entries_pass_unchanged(name):
    seen = passage(approach(name), GUEST, [TLBI, NSNH, UNKNOWN, STE, SYNC])
    assert seen.issued == (tuple(map(decode, (TLBI, NSNH, UNKNOWN, STE, SYNC))),)


def test_an_array_is_cut_by_the_rows_host_group():
    sizes = {"batched": [63, 37], "short-path": [100]}
    for name, parts in sizes.items():
        assert [len(commands) for commands in passage(approach(name), GUEST, [TLBI] * 100 + [SYNC]).issued] == parts
    five = approach("short-path").but(host_group=5)
    assert [len(commands) for commands in passage(five, GUEST, [TLBI] * 11).issued] == [5, 5, 1]


def test_a_consumer_of_ones_own_has_the_passage_of_the_kernels_worker():
    def own(queue, doorbell, host):
        yield

    entries = [TLBI, STE, UNKNOWN, ATC, SYNC, ILLEGAL, TLBI]
    row = approach("short-path")
    assert passage(row.but(consumer=own), GUEST, entries) == passage(row, GUEST, entries)


@pytest.mark.parametrize("name", ["virtio-iommu", "vhost-iommu"])
def test_requests_are_no_commands(name):
    assert passage(approach(name), GUEST, [TLBI, ILLEGAL]).consumed == 0


# -- VCMDQs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vcmdq", "vcmdq-emulated", "vcmdq-emulated-vmm"])
@pytest.mark.parametrize("refused", [NSNH, STE, ILLEGAL, bytes(Command.of("CMD_SYNC", cs=2))])
def test_a_vcmdq_stops_at_what_it_does_not_take_whoever_serves_it(name, refused):
    """I-30."""
    seen = passage(approach(name), GUEST, [TLBI, refused, TLBI])
    assert (seen.consumed, seen.cerror) == (1, CError.ILL)
    assert names(seen) == [["TLBI_NH_VA"]]


def test_the_hypervisor_deals_with_what_stops_an_overlaid_vcmdq():
    seen = passage(approach("vcmdq-overlay"), GUEST, [TLBI, NSNH, STE, UNKNOWN, ATC, SYNC, ILLEGAL, TLBI])
    assert names(seen) == [["TLBI_NH_VA"], ["TLBI_NH_ALL"], ["ATC_INV", "CMD_SYNC"]]
    assert (seen.consumed, seen.cerror) == (6, CError.ILL)
    assert (seen.emulated, seen.skipped, seen.lost) == ((2,), (3,), ())


def test_an_overlaid_vcmdq_stops_where_the_hosts_cmd_sync_for_the_hypervisor_times_out():
    seen = passage(
        approach("vcmdq-overlay"), GUEST, [TLBI, NSNH, TLBI], completes=lambda part: part[0].name != "TLBI_NH_ALL"
    )
    assert (seen.consumed, seen.cerror, seen.errno) == (1, CError.ILL, "ETIMEDOUT")
    assert names(seen) == [["TLBI_NH_VA"], ["TLBI_NH_ALL"]]


@pytest.mark.parametrize("name", IN_HARDWARE)
def test_hardware_tells_of_a_device_that_does_not_answer_at_the_cmd_sync(name):
    """I-25; what stops an overlay in between changes nothing."""
    between = [NSNH] if name == "vcmdq-overlay" else [TLBI]
    seen = passage(approach(name), GUEST, [ATC, *between, ATC, TLBI, SYNC, TLBI], completes=lambda part: False)
    if name == "vcmdq-overlay":
        assert (seen.consumed, seen.cerror, seen.errno) == (1, CError.ILL, "ETIMEDOUT")
        seen = passage(approach(name), GUEST, [ATC, STE, ATC, TLBI, SYNC, TLBI], completes=lambda part: False)
    assert (seen.consumed, seen.cerror, seen.errno, seen.lost) == (4, CError.ATC_INV_SYNC, "", (0, 2))


@pytest.mark.parametrize("name", IN_HARDWARE)
def test_hardware_stops_at_an_entry_that_cannot_be_read(name):
    seen = passage(approach(name), GUEST, [TLBI, None, TLBI])
    assert (seen.consumed, seen.cerror) == (1, CError.ABT)


@pytest.mark.parametrize("name", IN_HARDWARE)
@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 63, 64, 65])
def test_hardware_runs_as_many_entries_as_there_are(name, number):
    seen = passage(approach(name), GUEST, [TLBI] * number)
    assert seen.consumed == sum(map(len, seen.issued)) == number


def test_a_guest_that_no_vintf_can_serve_is_refused():
    with pytest.raises(Refused, match="ENOSPC"):
        passage(approach("vcmdq"), Vsmmu(0x11, {k: k + 100 for k in range(17)}), [SYNC])


@pytest.mark.parametrize("row", [row for row in approaches() if row.front == "smmu-commands"], ids=lambda row: row.name)
def test_an_entry_has_16_bytes(row):
    with pytest.raises(ValueError, match="16"):
        passage(row, GUEST, [TLBI, TLBI[:15]])


# -- routes ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([TLBI, ATC, SYNC, NSNH, STE, bytes(Command.of("CFGI_CD", sid=8))])))
def test_a_driver_sends_each_command_to_one_queue_in_order_and_its_cmd_syncs_to_both(entries):
    (own, taken), (trapped, rest) = queues(approach("vcmdq"), entries)
    assert (own.name, trapped.name) == ("vcmdq", "qemu-today")
    assert all(map(vcmdq_takes, taken))
    assert [entry for entry in taken if entry != SYNC] == [entry for entry in entries if entry in (TLBI, ATC)]
    assert [entry for entry in rest if entry != SYNC] == [entry for entry in entries if entry not in (TLBI, ATC, SYNC)]
    assert taken.count(SYNC) == rest.count(SYNC) == entries.count(SYNC)
    assert not passage(own, GUEST, taken).cerror
    assert not passage(trapped, GUEST, rest).cerror


@given(st.lists(st.sampled_from([TLBI, ILLEGAL, SYNC])))
def test_a_guest_with_one_kind_of_queue_sends_everything_there(entries):
    assert queues(approach("short-path"), entries) == ((approach("short-path"), entries),)
