from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from smmu_lab.arch import FIELDS, VCMDQ_ACCEPTS, Command, CommandQueueRegisters, Features, Queue
from smmu_lab.arch.consumer import Refused, RegisterError
from smmu_lab.arch.vcmdq import VCMDQ_REGISTERS, Cmdqv, Vintf

ALL = Features.from_idr(idr0=0x0D44141B, idr1=8 << 21, idr3=0x1414, idr5=0x74)
"""Stage 1 and 2, ATS, range invalidation; queues of at most 256 entries."""

SYNC = Command.of("CMD_SYNC")
VMID, TABLE = 0x11, {8: 0x2301, 0xFFFFF: 0x2302}
BASE, LENGTH = 0x10000, 128
ILL, ABT, ATC = 1, 2, 3


class Ram(dict):
    """Sixteen bytes by address, zeros elsewhere; it notes what is read."""

    def __init__(self):
        self.reads = []

    def read(self, addr, n):
        self.reads.append(addr)
        return self.get(addr, bytes(n))


class Guest:
    """A VM with one VINTF, and a well-behaved driver of its queue `index`, which recovers as Linux does."""

    def __init__(self, vintf=None, index=0, log2size=3, **more):
        self.ram = vintf.lvcmdqs[index].memory if vintf else Ram()
        self.vintf = vintf or Vintf(self.ram, ALL, vmid=VMID, **more)
        if not vintf:
            for vsid, psid in TABLE.items():
                self.vintf.match(vsid, psid)
        self.base = BASE << index
        self.vcmdq = self.vintf.allocate(index, self.base, 16 << log2size)
        self.vcmdq.write32("CONFIG", 1)
        self.queue, self.prod = Queue(log2size), 0

    def put(self, *entries):
        for entry in entries:
            self.ram[self.base + 16 * self.queue.index(self.prod)] = bytes(entry)
            self.prod = self.queue.advance(self.prod)
        self.vcmdq.write32("PROD", self.prod)

    @property
    def cons(self):
        return self.vcmdq.read32("CONS") & self.queue.mask

    @property
    def err(self):
        return self.vcmdq.read32("CONS") >> 24

    def recover(self):
        """Linux 7.2 __arm_smmu_cmdq_skip_err with the CMD_SYNC of a VCMDQ, then GERRORN."""
        if self.err == ILL:
            self.ram[self.base + 16 * self.queue.index(self.cons)] = bytes(SYNC)
        self.vcmdq.write32("GERRORN", self.vcmdq.read32("GERROR"))


def state(vcmdq):
    return [vcmdq.read32(name) for name in VCMDQ_REGISTERS], list(vcmdq.executed), vcmdq.fetched, vcmdq.stopped_by


def reaches_the_smmu(raw):
    """What the hardware makes of a guest's entry, told by bits; None for CERROR_ILL."""
    dw0, dw1 = struct.unpack("<QQ", raw)
    match dw0 & 0xFF:
        case 0x46 if not dw0 >> 12 & 3:
            return Command(dw0, dw1)
        case 0x11:
            return Command(dw0 & ~(0xFFFF << 32) | VMID << 32, dw1)
        case 0x12:
            num, scale, ttl, tg = dw0 >> 12 & 31, dw0 >> 20 & 31, dw1 >> 8 & 3, dw1 >> 10 & 3
            if tg and not num and not scale and (not ttl or (ttl == 1 and tg == 2)):
                return None
            return Command(dw0 & ~(0xFFFF << 32) | VMID << 32, dw1)
        case 0x40 if not dw0 >> 10 & 1 and dw0 >> 32 in TABLE:
            return Command(dw0 & 0xFFFFFFFF | TABLE[dw0 >> 32] << 32, dw1)
    return None


opcodes = st.sampled_from([*b"\x11\x12\x40\x46", *b"\x11\x12\x40\x46", *b"\x01\x03\x04\x05\x06\x10\x13\x30\x41"])
random_entries = st.binary(min_size=16, max_size=16)
entries = st.one_of(
    random_entries,
    st.builds(lambda op, raw: bytes([op]) + raw[1:], opcodes, random_entries),
    st.builds(
        lambda sid, raw: b"\x40\0" + raw[2:4] + sid.to_bytes(4, "little") + raw[8:],
        st.sampled_from([*TABLE, 9, 0x2301, 8 | 1 << 20]),
        random_entries,
    ),
    st.sampled_from([bytes(SYNC), bytes(Command.of("TLBI_NH_ASID", asid=5, vmid=0x99))]),
)
rounds = st.lists(st.tuples(st.lists(entries, max_size=8), st.booleans()), max_size=6)


# ---- isolation and order


@given(rounds)
def test_a_guest_reaches_the_smmu_with_its_own_vmid_and_devices_only(rounds):
    """I-15, I-16 and I-30, and no more: each legal entry runs once, in order, rewritten (I-4, I-23, I-24)."""
    guest, wanted = Guest(), []
    for batch, recover in rounds:
        batch = batch[: guest.queue.space(guest.cons, guest.prod)]
        wanted += [reaches_the_smmu(raw) or SYNC for raw in batch]
        before = state(guest.vcmdq)
        guest.put(*batch)
        if guest.vintf.err_map != bytes(16) and before[0][4] != before[0][5]:  # GERROR, GERRORN
            before[0][1] = guest.prod
            assert state(guest.vcmdq) == before
        assert 0 <= guest.queue.distance(guest.cons, guest.prod) <= guest.queue.size
        assert guest.vcmdq.executed == wanted[: len(guest.vcmdq.executed)]
        while recover and guest.vcmdq.error_active:
            guest.recover()
        for command in guest.vcmdq.executed:
            raw = bytes(command)
            assert command.name in VCMDQ_ACCEPTS
            if raw[0] in (0x11, 0x12):
                assert int.from_bytes(raw[4:6], "little") == VMID
            if raw[0] == 0x40:
                assert int.from_bytes(raw[4:8], "little") in TABLE.values()
    while guest.vcmdq.error_active:
        guest.recover()
    assert guest.vcmdq.executed == wanted
    assert guest.cons == guest.prod


@given(entries)
def test_an_entry_runs_as_it_must_or_stops_the_queue_as_illegal(raw):
    guest = Guest()
    guest.put(raw)
    wanted = reaches_the_smmu(raw)
    assert guest.vcmdq.executed == [wanted] * bool(wanted)
    assert (guest.cons, guest.err, guest.vcmdq.error_active) == ((0, ILL, True), (1, 0, False))[bool(wanted)]


@pytest.mark.parametrize("name", FIELDS)
def test_a_guest_queue_takes_four_commands_and_the_hosts_all(name):
    sid = {"sid": 8} if any(f.name == "sid" for f in FIELDS[name]) else {}
    guest = Guest()
    guest.put(Command.of(name, **sid))
    assert guest.err == (name not in {"TLBI_NH_ASID", "TLBI_NH_VA", "ATC_INV", "CMD_SYNC"})
    if name not in VCMDQ_ACCEPTS:
        assert name in guest.vcmdq.stopped_by


@given(st.one_of(random_entries, st.builds(lambda op, raw: bytes([op]) + raw[1:], opcodes, random_entries)))
def test_a_queue_of_the_host_takes_what_the_physical_queue_takes_but_a_sync_that_signals(raw):
    host = Guest(hyp_own=True)
    host.put(raw)
    cmdq = CommandQueueRegisters(ram := Ram(), ALL)
    ram[BASE] = raw
    for register, value in (("CMDQ_BASE", BASE | 3), ("CR0", 9), ("CMDQ_PROD", 1)):
        cmdq.write32(register, value)
    if cmdq.executed and cmdq.executed[0].name == "CMD_SYNC" and cmdq.executed[0].fields["cs"]:
        assert host.err == ILL
    else:
        assert host.vcmdq.executed == cmdq.executed
        assert host.err == cmdq.read32("CMDQ_CONS") >> 24


@given(st.lists(entries, max_size=8), st.lists(entries, max_size=8))
def test_what_one_queue_does_changes_no_other(first, second):
    """I-18: beside a queue in whatever state, another behaves as if it were alone."""
    alone = Guest(Guest().vintf, 1)
    alone.put(*second)
    beside = Guest()
    other = Guest(beside.vintf, 1)
    before = state(other.vcmdq)
    beside.put(*first)
    assert state(other.vcmdq) == before
    before = state(beside.vcmdq)
    other.put(*second)
    assert state(beside.vcmdq) == before
    assert state(other.vcmdq) == state(alone.vcmdq)


writes = st.tuples(
    st.sampled_from(["write32", "write64"]),
    st.sampled_from([*VCMDQ_REGISTERS, "PROD", "CONFIG", "GERRORN"]),
    st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1)),
)


@given(st.lists(writes, max_size=30), st.lists(entries, min_size=8, max_size=8))
def test_whatever_a_guest_writes_its_queue_fetches_from_its_memory_only(done, ring):
    guest = Guest()
    guest.ram |= {BASE + 16 * k: raw for k, raw in enumerate(ring)}
    for method, register, value in done:
        getattr(guest.vcmdq, method)(register, value)
        if guest.vcmdq.enabled and not guest.vcmdq.error_active:
            assert guest.cons == guest.vcmdq.read32("PROD")
    assert set(guest.ram.reads) <= set(range(BASE, BASE + LENGTH, 16))
    assert set(map(bytes, guest.vcmdq.executed)) <= {bytes(c) for raw in ring if (c := reaches_the_smmu(raw))}


# ---- errors


def test_an_error_stops_the_queue_until_gerrorn_agrees_and_the_entry_is_fetched_again():
    guest = Guest()
    guest.put(SYNC, Command.of("TLBI_NH_ALL"), SYNC)
    assert (guest.cons, guest.err, guest.vcmdq.read32("GERROR"), guest.vcmdq.read32("GERRORN")) == (1, ILL, 1, 0)
    assert guest.vcmdq.interrupts == ["cmdqv"]
    before = guest.vcmdq.fetched
    for register, value in (("PROD", 3), ("CONS", 0), ("GERROR", 0), ("GERRORN", 0), ("CONFIG", 0), ("CONFIG", 1)):
        guest.vcmdq.write32(register, value)
    assert (guest.cons, guest.err, guest.vcmdq.fetched, guest.vcmdq.read32("GERROR")) == (1, ILL, before, 1)
    guest.recover()
    assert guest.vcmdq.executed == [SYNC] * 3
    assert guest.vcmdq.fetched == before + 2
    guest.vcmdq.write32("GERRORN", 0xFFFF_FFFF)
    assert (guest.vcmdq.read32("GERRORN"), guest.vcmdq.error_active) == (1, False)


def test_the_error_map_has_a_bit_for_each_queue_with_an_active_error():
    vintf = Vintf(Ram(), ALL, VMID, lvcmdqs=128)
    for k in range(128):
        queue = vintf.allocate(k, 32 * k, 32)
        queue.write32("CONFIG", 1)
        if k in (0, 9, 127):
            queue.write32("PROD", 1)  # an entry of zeros
    assert vintf.err_map == bytes([1, 2, *[0] * 13, 0x80])
    vintf.lvcmdqs[9].write32("GERRORN", 1)
    assert vintf.err_map == bytes([1, 2, *[0] * 13, 0x80])  # fetched again, illegal again
    vintf.lvcmdqs[9].write32("CONFIG", 0)
    vintf.lvcmdqs[9].write32("GERRORN", vintf.lvcmdqs[9].read32("GERROR"))
    assert vintf.err_map == bytes([1, *[0] * 14, 0x80])


def test_an_atc_timeout_is_reported_at_the_sync():
    """I-25; the device that is asked is the physical one."""
    asked = []
    guest = Guest(answered=lambda command: asked.append(command.fields["sid"]))
    guest.put(Command.of("ATC_INV", sid=8), Command.of("TLBI_NH_ASID"), SYNC, SYNC)
    assert (guest.cons, guest.err, asked) == (2, ATC, [0x2301])
    guest.recover()
    assert (guest.cons, guest.vcmdq.error_active, len(guest.vcmdq.executed)) == (4, False, 4)


def test_a_queue_given_to_a_new_vm_never_reports_the_old_vms_timeout():
    """I-25: nor its error, its registers, its StreamIDs."""
    cmdqv = Cmdqv(Ram(), ALL, 2, 4, answered=lambda command: False)
    old = cmdqv.allocate(vmid=1)
    old.match(8, 0x2301)
    for index, ending in enumerate((SYNC, bytes(16))):
        guest = Guest(old, index)
        guest.put(Command.of("ATC_INV", sid=8), *[ending] * (ending != SYNC))
    assert old.err_map != bytes(16)
    cmdqv.free(old)
    assert old.config == 0
    new = cmdqv.allocate(vmid=2)
    assert (new.sids, new.err_map, new.config) == ({}, bytes(16), 1 | 2 << 1)
    for index in (0, 1):
        guest = Guest(new, index)
        assert guest.vcmdq.executed == []
        guest.put(Command.of("TLBI_NH_ASID"), SYNC)
        assert [command.fields.get("vmid", 2) for command in guest.vcmdq.executed] == [2, 2]
    assert [new.match(vsid, vsid) for vsid in range(16)] == list(range(16))


def test_a_vintf_that_is_no_vms_takes_no_call_and_the_next_vm_finds_it_empty():
    """I-15 and I-25; Linux 7.2 tegra241_vintf_hw_init begins with a reset, and a closed vIOMMU is ENOENT."""
    cmdqv = Cmdqv(Ram(), ALL, 2, 4)
    old = cmdqv.allocate(0x11)
    queue = old.allocate(0, BASE, LENGTH)
    cmdqv.free(old)
    for call, args in ((old.match, (8, 0x999)), (old.allocate, (0, BASE, LENGTH)), (old.enable, (0x11,))):
        assert errno(call, *args) == "ENOENT"
    for register, value in (("PROD", 2), ("CONFIG", 1)):
        queue.write32(register, value)
    new = cmdqv.allocate(0x22)
    assert (new.sids, new.config, queue.allocated, queue.fetched) == ({}, 1 | 0x22 << 1, False, 0)
    assert not any(queue.read32(register) for register in VCMDQ_REGISTERS)


@pytest.mark.parametrize("hold", [lambda v: v.allocate(0, BASE, LENGTH), lambda v: v.match(8, 0x2301)])
@pytest.mark.parametrize("disabled", [False, True])
def test_a_vintf_changes_its_vmid_only_while_it_holds_nothing(hold, disabled):
    """I-15."""
    vintf = Vintf(Ram(), ALL, VMID)
    vintf.enable(VMID + 1)
    hold(vintf)
    if disabled:
        vintf.disable()
    with pytest.raises(Refused, match=r"^EBUSY: vmid: 0x11 is not valid while .* \(valid: 0x12\)$"):
        vintf.enable(VMID)
    assert (vintf.vmid, vintf.enabled) == (VMID + 1, not disabled)
    vintf.enable(VMID + 1)
    assert vintf.enabled
    vintf.reset()
    vintf.enable(VMID)
    assert (vintf.vmid, vintf.sids) == (VMID, {})


def test_what_is_matched_or_allocated_before_the_vmid_is_set_goes_to_no_vm():
    vintf = Vintf(Ram(), ALL, VMID)
    vintf.reset()
    vintf.match(8, 0x2301)
    assert errno(vintf.enable, VMID) == "EBUSY"


def test_a_drained_queue_stands_still_and_reports_no_timeout_later():
    """I-35."""
    guest = Guest(answered=lambda command: False)
    guest.put(Command.of("ATC_INV", sid=8))
    assert guest.vcmdq.drain() == 1
    assert guest.vcmdq.read32("STATUS") == 0
    guest.put(SYNC)
    assert guest.cons == 1
    guest.vcmdq.write32("CONFIG", 1)
    assert (guest.cons, guest.err) == (2, 0)


# ---- enable


def test_a_queue_runs_while_it_is_enabled_in_an_enabled_vintf():
    guest = Guest()
    guest.vcmdq.write32("CONFIG", 0)
    guest.put(SYNC)
    assert (guest.cons, guest.vcmdq.read32("STATUS")) == (0, 0)
    guest.vintf.disable()
    guest.vcmdq.write32("CONFIG", 0xFFFF_FFFF)
    assert (guest.cons, guest.vcmdq.read32("CONFIG"), guest.vcmdq.read32("STATUS")) == (0, 1, 0)
    guest.vintf.enable(VMID)
    assert (guest.cons, guest.vcmdq.read32("STATUS")) == (1, 1)  # I-19: the doorbell is not lost


def test_a_queue_that_is_not_allocated_takes_no_write():
    vintf = Vintf(Ram(), ALL, VMID, hyp_own=True)
    for register in VCMDQ_REGISTERS:
        vintf.lvcmdqs[0].write32(register, 1)
        vintf.lvcmdqs[0].write64(register, 1)
    assert not any(vintf.lvcmdqs[0].read32(register) for register in VCMDQ_REGISTERS)
    queue = vintf.allocate(0, BASE, LENGTH)
    assert {name: value for name in VCMDQ_REGISTERS if (value := queue.read32(name))} == {"BASE": BASE | 3}


def test_page_1_and_cons_are_read_only_while_the_queue_runs_and_page_1_always_to_a_guest():
    for hyp_own in (True, False):
        queue = Guest(hyp_own=hyp_own).vcmdq
        for enabled in (1, 0):
            queue.write32("CONFIG", enabled)
            queue.write64("BASE", 1 << 47 | 2 << 60 | 0x20000 | 2)
            queue.write32("CONS_INDX_BASE", 0x40)
            queue.write32("CONS", 0xFF00_0001)
            taken = hyp_own and not enabled
            assert queue.read64("BASE") == (1 << 47 | 0x20000 | 2 if taken else BASE | 3)
            assert queue.read32("CONS_INDX_BASE") == 0x40 * taken
            assert queue.read32("CONS") == (0 if enabled else 0x7F00_0001)


# ---- the calls


def errno(call, *args):
    try:
        call(*args)
    except Refused as refused:
        return refused.errno
    return ""


class Allocation(RuleBasedStateMachine):
    """I-27 and I-28 against the number of queues that are live: they are always the lowest ones."""

    def __init__(self):
        super().__init__()
        self.vintf = Vintf(Ram(), ALL, VMID, lvcmdqs=3)
        self.live = []

    @rule(
        index=st.integers(-1, 3),
        length=st.sampled_from([0, 16, 32, 48, 64, 0x1000, 0x2000, 2**20]),
        addr=st.sampled_from([0, 16, 32, 0x1000, 0x3000, 0x3010, 1 << 47, 1 << 48]),
    )
    def allocate(self, index, length, addr):
        if index not in range(3):
            wanted = "EINVAL"
        elif index != len(self.live):
            wanted = "EEXIST" if index < len(self.live) else "EIO"
        else:
            legal = length in (32, 64, 0x1000) and addr % length == 0 and addr < 1 << 48  # 256 entries at most
            wanted = "" if legal else "EINVAL"
        assert errno(self.vintf.allocate, index, addr, length) == wanted
        if not wanted:
            self.live.append((addr, length))

    @rule(index=st.integers(-1, 3))
    def release(self, index):
        last = len(self.live) - 1
        wanted = "" if index == last >= 0 else "EBUSY" if 0 <= index < last else "ENOENT"
        assert errno(self.vintf.release, index) == wanted
        if not wanted:
            self.live.pop()

    @invariant()
    def the_lowest_are_live_and_lie_where_they_were_put(self):
        assert [queue.allocated for queue in self.vintf.lvcmdqs] == [k < len(self.live) for k in range(3)]
        for queue, (addr, length) in zip(self.vintf.lvcmdqs, self.live, strict=False):
            assert queue.read64("BASE") == addr | length.bit_length() - 5
        for page in (0x0, 0x1000, 0x3000, 0x4000, 1 << 47):
            held = any(addr // 0x1000 <= page // 0x1000 <= (addr + length - 1) // 0x1000 for addr, length in self.live)
            assert self.vintf.pinned(page, 1) == held


TestAllocation = Allocation.TestCase
TestAllocation.settings = settings(max_examples=30, stateful_step_count=25)


@pytest.mark.parametrize(
    ("length", "wanted"), [(16, "EINVAL"), (32, ""), (33, "EINVAL"), (48, "EINVAL"), (4096, ""), (8192, "EINVAL")]
)
def test_the_length_is_a_power_of_two_up_to_the_smmus_longest_queue(length, wanted):
    assert errno(Vintf(Ram(), ALL, VMID).allocate, 0, 0x10000, length) == wanted


def test_memory_that_is_not_contiguous_is_refused_before_all_else():
    vintf = Vintf(Ram(), ALL, VMID, contiguous=lambda addr, length: addr + length <= 0x1000)
    assert errno(vintf.allocate, 7, 0x0FF0, 100) == "EFAULT"
    assert errno(vintf.allocate, 0, 0x0FE0, 32) == ""


def test_memory_is_pinned_by_pages_while_a_queue_lies_there():
    vintf = Vintf(Ram(), ALL, VMID)
    vintf.allocate(0, 0x3FC0, 64)
    assert [vintf.pinned(addr, n) for addr, n in ((0x3000, 1), (0x2FFF, 2), (0, 0x10000))] == [True] * 3
    assert [vintf.pinned(addr, n) for addr, n in ((0x4000, 0x1000), (0, 0x3000))] == [False] * 2
    vintf.release(0)
    assert not vintf.pinned(0, 1 << 48)


def test_the_match_table_holds_each_device_once_until_it_is_full():
    """I-29."""
    vintf = Vintf(Ram(), ALL, VMID, sids_per_vintf=3)
    assert [vintf.match(vsid, 0x100 + vsid) for vsid in (8, 0, 0xFFFFF)] == [0, 1, 2]
    assert errno(vintf.match, 9, 9) == "ENOSPC"
    vintf.unmatch(0)
    assert errno(vintf.unmatch, 0) == "ENOENT"
    assert errno(vintf.match, 8, 9) == "EEXIST"
    assert errno(vintf.match, 9, 0x108) == "EEXIST"
    assert errno(vintf.match, 1 << 20, 9) == errno(vintf.match, -1, 9) == errno(vintf.match, 9, 1 << 32) == "EINVAL"
    assert vintf.match(9, 0xFFFF_FFFF) == 1
    assert vintf.sids == {8: 0x108, 0xFFFFF: 0x1000FF, 9: 0xFFFF_FFFF}


def test_a_device_that_is_taken_out_of_the_table_is_illegal_from_then_on():
    guest = Guest()
    guest.put(Command.of("ATC_INV", sid=8))
    guest.vintf.unmatch(8)
    guest.put(Command.of("ATC_INV", sid=8))
    assert (guest.cons, guest.err) == (1, ILL)


# ---- the device


@given(st.integers(1, 6), st.integers(0, 6), st.lists(st.integers(0, 70), max_size=80))
def test_vms_get_the_lowest_free_vintf_until_none_is_left(log2vintfs, log2lvcmdqs, freed):
    """I-29, and VINTF 0 stays the host's."""
    vintfs, vcmdqs = 1 << log2vintfs, min(1 << log2vintfs + log2lvcmdqs, 128)
    cmdqv = Cmdqv(Ram(), ALL, vintfs, vcmdqs)
    assert {len(vintf.lvcmdqs) for vintf in cmdqv.vintfs} == {vcmdqs // vintfs}
    assert [vintf.hyp_own for vintf in cmdqv.vintfs] == [True] + [False] * (vintfs - 1)
    assert [vintf.enabled for vintf in cmdqv.vintfs] == [True] + [False] * (vintfs - 1)
    assert [cmdqv.vintfs.index(cmdqv.allocate(vmid)) for vmid in range(1, vintfs)] == list(range(1, vintfs))
    assert errno(cmdqv.allocate, 99) == "ENOSPC"
    taken = set(range(1, vintfs))
    for k in freed:
        k %= vintfs
        assert errno(cmdqv.free, cmdqv.vintfs[k]) == ("" if k in taken else "ENOENT")
        taken -= {k}
    if taken != set(range(1, vintfs)):
        assert cmdqv.allocate(99) is cmdqv.vintfs[min(set(range(1, vintfs)) - taken)]


def test_a_vmid_and_a_device_belong_to_one_vm():
    """I-15; a device has one vdevice (Linux 7.2 viommu.c)."""
    cmdqv = Cmdqv(Ram(), ALL, 4, 8)
    first, second = cmdqv.allocate(0x11), cmdqv.allocate(0x12)
    first.match(8, 0x2301)
    assert errno(cmdqv.allocate, 0x11) == errno(second.enable, 0x11) == errno(second.match, 8, 0x2301) == "EEXIST"
    assert (second.vmid, second.sids, cmdqv.vintfs[3].allocated) == (0x12, {}, False)
    assert second.match(8, 0x2302) == 0
    with pytest.raises(Refused, match=r"^EEXIST: psid: 0x2302 has an entry \(valid: none of 0x2301, 0x2302\)$"):
        first.match(9, 0x2302)
    with pytest.raises(Refused, match=r"^EEXIST: vmid: 0x12 is another VM's \(valid: none of 0x12\)$"):
        first.enable(0x12)
    first.unmatch(8)
    assert second.match(9, 0x2301) == 1
    cmdqv.free(second)
    assert (first.match(8, 0x2301), cmdqv.allocate(0x12)) == (0, second)


def test_config_shows_vmid_owner_and_enable():
    cmdqv = Cmdqv(Ram(), ALL, 4, 8)
    assert [vintf.config for vintf in cmdqv.vintfs] == [1 << 17 | 1, 0, 0, 0]
    assert cmdqv.allocate(0xFFFF).config == 0x1FFFF


@pytest.mark.parametrize(
    ("offset", "lvcmdq", "register"),
    [
        *((0, 0, "CONS"), (0x84, 1, "PROD"), (0x3F88, 127, "CONFIG"), (0x0C, 0, "STATUS"), (0x90, 1, "GERROR")),
        *((0x14, 0, "GERRORN"), (0x10080, 1, "BASE"), (0x13F84, 127, "BASE+4"), (0x10008, 0, "CONS_INDX_BASE")),
    ],
)
def test_a_register_lies_0x80_further_for_each_queue_and_page_1_64_kib_further(offset, lvcmdq, register):
    vintf = Vintf(Ram(), ALL, VMID, lvcmdqs=128)
    assert vintf.at(offset) == (vintf.lvcmdqs[lvcmdq], register)


@pytest.mark.parametrize("offset", [0x18, 0x100, 0x2, 0x10010, 0x1FF80])
def test_where_no_register_is_an_access_is_refused(offset):
    with pytest.raises(RegisterError, match=r"^offset 0x[0-9a-f]+: no register; valid: 0x80 \* \(0 to 1\) \+ CONS"):
        Vintf(Ram(), ALL, VMID).at(offset)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Vintf(Ram(), ALL, 1 << 16), r"^vmid: 0x10000 is not valid: an integer, 0 to 0xffff$"),
        (lambda: Vintf(Ram(), ALL, 1, lvcmdqs=129), r"^lvcmdqs: 129 is not valid: an integer, 1 to 128$"),
        (lambda: Vintf(Ram(), ALL, 1, sids_per_vintf=0), r"^sids_per_vintf: 0 is not valid: an integer, 1 to 16$"),
        (lambda: Vintf(Ram(), ALL, "1"), r"^vmid: '1' is not valid: an integer, 0 to 0xffff$"),
        (lambda: Vintf(Ram(), ALL, 1).at(1.5), r"^offset: 1\.5 is not valid: an integer, 0 to 0x1ffff$"),
        (lambda: Vintf(Ram(), ALL, 1).at(-1), r"^offset: -0x1 is not valid: an integer, 0 to 0x1ffff$"),
        (lambda: Vintf(Ram(), ALL, 1).at(0x20000), r"^offset: 0x20000 is not valid: an integer, 0 to 0x1ffff$"),
        (lambda: Cmdqv(Ram(), ALL, 2.0, 8), r"^vintfs: 2\.0 is not valid: an integer, 0 or more$"),
        (lambda: Cmdqv(Ram(), ALL, 3, 8), r"^vintfs: 3 is not valid: a power of two, 2 to 64$"),
        (lambda: Cmdqv(Ram(), ALL, 8, 4), r"^vcmdqs: 4 is not valid: a power of two, 8 to 128$"),
    ],
)
def test_a_number_that_the_registers_cannot_hold_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.allocate(0, 0, 64), r"^EEXIST: index: LVCMDQ 0 is allocated \(valid: 1\)$"),
        (lambda v: v.allocate(2, 0, 64), r"^EIO: index: LVCMDQ 2 needs LVCMDQ 1 first \(valid: 1\)$"),
        (lambda v: v.allocate(3, 0, 64), r"^EINVAL: index: 3 is not valid: an integer, 0 to 2$"),
        (lambda v: v.allocate(True, 0, 64), r"^EINVAL: index: True is not valid: an integer, 0 to 2$"),
        (lambda v: v.allocate(1, "x", 64), r"^EINVAL: addr: 'x' is not valid: an integer, 0 to 0xffffffffffffffff$"),
        (lambda v: v.allocate(1, 0, -32), r"^EINVAL: length: -32 is not valid: an integer, 0 or more$"),
        (lambda v: v.allocate(1, 0, 65), r"^EINVAL: length: 65 is not valid: a power of two, 32 to 4096$"),
        (lambda v: v.allocate(1, 32, 64), r"^EINVAL: addr: 0x20 is not valid: a multiple of 0x40 below 2\^48$"),
        (lambda v: v.release(1), r"^ENOENT: index: LVCMDQ 1 is not allocated \(valid: 0\)$"),
        (lambda v: [v.allocate(1, 0, 64), v.release(0)], r"^EBUSY: index: LVCMDQ 1 depends on LVCMDQ 0 \(valid: 1\)$"),
        (lambda v: v.match(8, 5), r"^EEXIST: vsid: 0x8 has an entry \(valid: none of 0x8, 0xfffff\)$"),
        (lambda v: v.match("8", 1), r"^EINVAL: vsid: '8' is not valid: an integer, 0 to 0xfffff$"),
        (lambda v: v.match(True, 1), r"^EINVAL: vsid: True is not valid: an integer, 0 to 0xfffff$"),
        (lambda v: v.match(9, 1.5), r"^EINVAL: psid: 1\.5 is not valid: an integer, 0 to 0xffffffff$"),
        (lambda v: v.unmatch("8"), r"^EINVAL: vsid: '8' is not valid: an integer, 0 to 0xfffff$"),
        (lambda v: v.unmatch(5), r"^ENOENT: vsid: 0x5 has no entry \(valid: 0x8, 0xfffff\)$"),
    ],
)
def test_a_refusal_says_what_is_valid(call, message):
    vintf = Guest(lvcmdqs=3).vintf
    with pytest.raises(Refused, match=message):
        call(vintf)
