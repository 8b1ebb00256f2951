from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.arch import DEVIATIONS, ILLEGAL, OPCODES, REGISTERS, Command, CommandQueueRegisters, Features, Queue
from smmu_lab.arch import RegisterError as Refused

QEMU = Features.from_idr(idr0=0x0D44101B, idr1=0x02730010, idr3=0x1414, idr5=0x74)
ALL = Features.from_idr(idr0=0xFEFF_FFFF & ~(3 << 24), idr1=0x02730010, idr3=0x1414, idr5=0xF4)
"""Every feature: ATS, PRI, MSI, EL2, stalls."""

SYNC = Command.of("CMD_SYNC")
BASE = 0x10000
ENABLE = 0b1001  # CMDQEN, SMMUEN
RULES = ("arm", "qemu")


class Ram(dict):
    """Sixteen bytes by address; zeros elsewhere below `end`."""

    end = 1 << 40

    def read(self, addr, n):
        if addr >= self.end:
            raise LookupError(hex(addr))
        return self.get(addr, bytes(n))

    def write(self, addr, data):
        if addr >= self.end:
            raise LookupError(hex(addr))
        self[addr] = data


class Driver:
    """A well-behaved driver of one queue: it fills free slots, rings, and recovers as Linux does."""

    def __init__(self, features=ALL, rules="arm", log2size=3, start=0, **more):
        self.ram = Ram()
        self.regs = CommandQueueRegisters(self.ram, features=features, rules=rules, **more)
        self.queue, self.prod = Queue(log2size), start
        self.regs.write64("CMDQ_BASE", BASE | log2size)
        for pointer in ("CMDQ_PROD", "CMDQ_CONS"):
            self.regs.write32(pointer, start)
        self.regs.write32("IRQ_CTRL", 1)
        self.regs.write32("CR0", ENABLE)

    def put(self, *entries):
        for entry in entries:
            self.ram[BASE + 16 * self.queue.index(self.prod)] = bytes(entry)
            self.prod = self.queue.advance(self.prod)

    def ring(self):
        self.regs.write32("CMDQ_PROD", self.prod)

    @property
    def space(self):
        return self.queue.space(self.regs.read32("CMDQ_CONS"), self.prod)

    @property
    def err(self):
        return self.regs.read32("CMDQ_CONS") >> 24

    def acknowledge(self):
        self.regs.write32("GERRORN", self.regs.read32("GERROR"))

    def recover(self):
        """Linux 7.2 __arm_smmu_cmdq_skip_err: replace an illegal command by a CMD_SYNC, then acknowledge."""
        if self.err == 1:
            self.ram[BASE + 16 * self.queue.index(self.regs.read32("CMDQ_CONS"))] = bytes(SYNC)
        self.acknowledge()


LEGAL = [Command.of("TLBI_NH_ASID", asid=n) for n in range(9)] + [SYNC, Command.of("CFGI_STE", sid=8)]
ILL = [bytes(16), bytes([7] + [0] * 15), bytes([3, 4] + [0] * 14), bytes([0xFF] * 16)]


# ---- what must hold whatever is done

writes = st.one_of(
    st.tuples(
        st.sampled_from(["write32", "write64"]),
        st.sampled_from([*REGISTERS, "CMDQ_PROD", "CMDQ_PROD", "GERRORN", "CR0"]),
        st.one_of(st.integers(0, 40), st.sampled_from([0x9, 0x8, BASE | 3, BASE | 31]), st.integers(0, 2**32 - 1)),
    ),
    st.tuples(
        st.just("put"), st.integers(0, 15), st.one_of(st.sampled_from(LEGAL + ILL), st.binary(min_size=16, max_size=16))
    ),
)


@given(st.sampled_from(RULES), st.sampled_from([QEMU, ALL]), st.integers(0, 6), st.lists(writes, max_size=40))
def test_whatever_is_written_the_queue_keeps_its_rules(rules, features, log2size, done):
    ram = Ram()
    regs = CommandQueueRegisters(ram, features=features, rules=rules, answered=lambda c: c.fields["sid"] % 2 == 0)
    regs.write64("CMDQ_BASE", BASE | log2size)
    fetched = 0
    for method, where, value in done:
        if method == "put":
            ram[BASE + 16 * where] = bytes(value)
            continue
        cons, active = regs.read32("CMDQ_CONS"), regs.error_active
        getattr(regs, method)(where, value)
        for name in REGISTERS:
            assert 0 <= regs.read32(name) < 2**32
        left = regs.queue.distance(regs.read32("CMDQ_CONS"), regs.read32("CMDQ_PROD"))
        if where in ("CMDQ_PROD", "CR0", "GERRORN") and method == "write32":
            if regs.enabled and not regs.error_active:
                assert left == 0  # all run, and CONS did not pass PROD
            assert regs.fetched - fetched <= regs.queue.mask + 1
            if active and where != "GERRORN":
                assert (regs.read32("CMDQ_CONS"), regs.fetched, regs.error_active) == (cons, fetched, True)
        else:
            assert regs.fetched == fetched
        fetched = regs.fetched


@given(
    st.sampled_from(RULES),
    st.integers(0, 4),
    st.integers(0, 31),
    st.lists(
        st.tuples(st.integers(1, 16), st.booleans(), st.lists(st.sampled_from(LEGAL + ILL), max_size=16)), max_size=12
    ),
)
def test_each_command_runs_once_in_order_whatever_goes_wrong(rules, log2size, start, rounds):
    """I-1, I-4, I-23 and I-24: an illegal entry becomes a CMD_SYNC, every other command runs once, in order."""
    driver = Driver(QEMU, rules, log2size, start & (2 << log2size) - 1)
    regs, wanted = driver.regs, []
    for _, recover, entries in rounds:
        entries = entries[: driver.space]
        wanted += [SYNC if isinstance(entry, bytes) else entry for entry in entries]
        driver.put(*entries)
        before = regs.read32("CMDQ_CONS"), list(regs.executed), regs.error_active
        driver.ring()
        if before[2]:  # I-23: nothing moves while the error is active
            assert (regs.read32("CMDQ_CONS"), regs.executed, regs.error_active) == before
        assert regs.executed == wanted[: len(regs.executed)]
        assert 0 <= driver.queue.distance(regs.read32("CMDQ_CONS"), driver.prod) <= driver.queue.size
        if recover:
            while regs.error_active:
                driver.recover()
            assert regs.executed == wanted
    while regs.error_active:
        driver.recover()
    assert regs.executed == wanted
    assert driver.queue.empty(regs.read32("CMDQ_CONS"), driver.prod)


@given(st.sampled_from(RULES), st.sampled_from([QEMU, ALL]), st.binary(min_size=16, max_size=16))
def test_an_entry_runs_or_stops_the_queue(rules, features, raw):
    driver = Driver(features, rules)
    driver.put(raw)
    driver.ring()
    assert driver.regs.fetched == 1
    assert (len(driver.regs.executed), driver.err) in {(1, 0), (0, 1)}
    assert bool(driver.regs.stopped_by) == driver.regs.error_active == (driver.err == 1)


# ---- errors


@pytest.mark.parametrize("rules", RULES)
def test_a_hole_stops_the_queue_and_the_entry_is_fetched_again(rules):
    driver = Driver(QEMU, rules)
    driver.ram.end = BASE + 16
    driver.put(SYNC, SYNC)
    driver.ring()
    assert (driver.regs.read32("CMDQ_CONS"), driver.err, driver.regs.fetched) == (0x0200_0001, 2, 1)
    assert driver.regs.stopped_by == "entry 1 at 0x10010: nothing answers at this address (CERROR_ABT)"
    driver.acknowledge()
    assert driver.regs.error_active
    assert driver.regs.interrupts == ["gerror", "gerror"]
    driver.ram.end = 1 << 40
    driver.acknowledge()
    assert len(driver.regs.executed) == 2


def test_an_atc_timeout_is_reported_at_the_sync_and_once():
    """I-25."""
    asked = []
    driver = Driver(answered=lambda command: asked.append(command) or command.fields["sid"] != 8)
    driver.put(Command.of("ATC_INV", sid=8), Command.of("ATC_INV", sid=9), Command.of("TLBI_NH_ALL"), SYNC, SYNC)
    driver.ring()
    assert [command.fields["sid"] for command in asked] == [8, 9]
    assert driver.regs.read32("CMDQ_CONS") == 0x0300_0003
    assert len(driver.regs.executed) == 3
    driver.recover()
    assert not driver.regs.error_active
    assert len(driver.regs.executed) == 5
    driver.put(SYNC)
    driver.ring()
    assert len(driver.regs.executed) == 6


@pytest.mark.parametrize(("rules", "cr0"), [("qemu", ENABLE), ("arm", 0b1000)])
def test_an_ignored_atc_inv_reaches_no_device(rules, cr0):
    """QEMU handles none; the specification has it ignored while the SMMU is off (Arm IHI 0070 section 4.5.1)."""
    driver = Driver(rules=rules, answered=lambda command: pytest.fail("asked"))
    driver.regs.write32("CR0", cr0)
    driver.put(Command.of("ATC_INV", sid=8), SYNC)
    driver.ring()
    assert len(driver.regs.executed) == 2


def test_reset_forgets_an_atc_timeout():
    driver = Driver(answered=lambda command: False)
    driver.put(Command.of("ATC_INV", sid=8))
    driver.ring()
    driver.regs.reset()
    driver.regs.write64("CMDQ_BASE", BASE | 3)
    driver.regs.write32("CR0", ENABLE)
    driver.ram[BASE] = bytes(SYNC)
    driver.regs.write32("CMDQ_PROD", 1)
    assert driver.regs.executed[-1] == SYNC


@pytest.mark.parametrize("rule", ILLEGAL, ids=lambda rule: f"{rule.commands[0]}: {rule.reason}")
def test_a_rule_that_qemu_does_not_check_stops_the_queue_under_arm_only(rule):
    assert rule.deviation is None or rule.deviation in DEVIATIONS
    none = Features.from_idr(idr0=1 << 24, idr1=0x02730010, idr3=0x400, idr5=0)
    for name in rule.commands:
        broken = [
            raw
            for extra in (0, 1 << 10, 3 << 12)
            for dw1 in (0, 1 << 10, 3 << 12)
            for raw in [(OPCODES[name] | extra, dw1 | (31 if name == "CFGI_ALL" else 0))]
            if rule.applies(raw[0], Command(raw[0] & ~(1 << 10), raw[1]), none)
        ]
        assert broken
        for dw0, dw1 in broken:
            for rules in RULES:
                driver = Driver(none, rules)
                driver.put(dw0.to_bytes(8, "little") + dw1.to_bytes(8, "little"))
                driver.ring()
                stops = rules == "arm" or any(
                    other.applies(dw0, Command(dw0 & ~(1 << 10), dw1), none)
                    for other in ILLEGAL
                    if name in other.commands and other.deviation is None
                )
                assert driver.err == stops


# ---- registers


def test_after_reset_the_queue_is_off_and_every_register_is_zero():
    driver = Driver()
    driver.put(SYNC)
    driver.ring()
    driver.regs.reset()
    values = {name: driver.regs.read32(name) for name in REGISTERS if not name.startswith("IDR")}
    assert {name: value for name, value in values.items() if value} == {"CMDQ_BASE": 19}
    assert driver.regs.executed == [SYNC]


@pytest.mark.parametrize("rules", RULES)
def test_the_size_is_capped_at_cmdqs_but_reads_back_as_written(rules):
    small = Features.from_idr(idr0=0x0D44101B, idr1=5 << 21, idr3=0x1414, idr5=0x74)
    regs = CommandQueueRegisters(Ram(), features=small, rules=rules)
    regs.write64("CMDQ_BASE", 1 << 62 | BASE | 31)
    assert regs.queue.log2size == 5
    assert regs.read64("CMDQ_BASE") == 1 << 62 | BASE | 31
    assert regs.read32("IDR1") == 5 << 21


@pytest.mark.parametrize(
    ("log2size", "arm", "qemu"), [(0, 0x123E0, 0x123C0), (1, 0x123E0, 0x123C0), (8, 0x12000, 0x123C0)]
)
def test_the_base_is_aligned_to_the_queue_except_in_qemu(log2size, arm, qemu):
    for rules, base in (("arm", arm), ("qemu", qemu)):
        regs = CommandQueueRegisters(Ram(), features=QEMU, rules=rules)
        regs.write64("CMDQ_BASE", 0x123E0 | log2size)
        assert regs.base == base


def test_the_halves_of_the_base_are_written_one_by_one():
    regs = CommandQueueRegisters(Ram(), features=QEMU)
    regs.write32("CMDQ_BASE", 0x8000_0003)
    regs.write32("CMDQ_BASE+4", 0x4000_0007)
    assert regs.read64("CMDQ_BASE") == 0x4000_0007_8000_0003
    assert (regs.read32("CMDQ_BASE"), regs.read32("CMDQ_BASE+4")) == (0x8000_0003, 0x4000_0007)


@pytest.mark.parametrize(("rules", "taken"), [("arm", False), ("qemu", True)])
def test_base_and_cons_are_read_only_while_the_queue_is_enabled_except_in_qemu(rules, taken):
    regs = Driver(QEMU, rules).regs
    regs.write64("CMDQ_BASE", 0x20000 | 2)
    regs.write32("CMDQ_CONS", 1)
    assert (regs.base == 0x20000, regs.read32("CMDQ_CONS") == 1) == (taken, taken)


@pytest.mark.parametrize("rules", RULES)
def test_read_only_registers_and_wide_accesses_to_narrow_ones_change_nothing(rules):
    driver = Driver(QEMU, rules)
    driver.put(SYNC)
    before = {name: driver.regs.read32(name) for name in REGISTERS}
    for name in REGISTERS:
        if name.startswith("IDR") or name in ("CR0ACK", "IRQ_CTRLACK", "GERROR"):
            driver.regs.write32(name, 0xFFFF_FFFF)
        if name != "CMDQ_BASE":
            driver.regs.write64(name, 0xFFFF_FFFF_FFFF_FFFF)
            assert driver.regs.read64(name) == 0
    assert {name: driver.regs.read32(name) for name in REGISTERS} == before
    assert not driver.regs.executed


def test_reserved_bits_read_zero_except_in_qemu():
    wanted = {
        ("arm", "CR0"): 0xD,
        ("arm", "CR0ACK"): 0xD,
        ("arm", "IRQ_CTRL"): 0x5,
        ("arm", "GERRORN"): 0x1FD,
        ("arm", "CMDQ_CONS"): 0x7F0F_FFFF,
        ("qemu", "CR0"): 0xFFFF_FFFF,
        ("qemu", "CR0ACK"): 0x3DF,
        ("qemu", "IRQ_CTRL"): 0xFFFF_FFFF,
        ("qemu", "GERRORN"): 0xFFFF_FFFF,
        ("qemu", "CMDQ_CONS"): 0xFFFF_FFFF,
    }
    for (rules, name), value in wanted.items():
        regs = CommandQueueRegisters(Ram(), features=QEMU, rules=rules)
        regs.write32(name.removesuffix("ACK"), 0xFFFF_FFFF)
        assert regs.read32(name) == value, (rules, name)


def test_prod_keeps_the_bits_above_the_wrap_bit_in_qemu_only():
    for rules, value in (("arm", 0xF), ("qemu", 0xFF)):
        regs = CommandQueueRegisters(Ram(), features=QEMU, rules=rules)
        regs.write64("CMDQ_BASE", BASE | 3)
        regs.write32("CMDQ_PROD", 0xFF)
        assert regs.read32("CMDQ_PROD") == value


# ---- what tells of completion


def test_a_sync_raises_the_line_and_writes_its_word_where_the_smmu_can():
    sync = Command.of("CMD_SYNC", cs=1, msiaddr=0x2000, msidata=0xABCD)
    for features, word in ((ALL, b"\xcd\xab\0\0"), (QEMU, None)):
        driver = Driver(features)
        driver.put(sync)
        driver.ring()
        assert driver.regs.interrupts == ["cmd-sync"]
        assert driver.ram.get(0x2000) == word


def test_a_message_into_a_hole_is_a_global_error_and_the_queue_goes_on():
    driver = Driver()
    lost = Command.of("CMD_SYNC", cs=1, msiaddr=1 << 41)
    driver.put(lost, lost, SYNC)
    driver.ring()
    assert driver.regs.read32("GERROR") == 1 << 4  # active once, not toggled back
    assert len(driver.regs.executed) == 3
    assert driver.regs.interrupts == ["cmd-sync", "gerror", "cmd-sync"]


def test_an_error_is_silent_without_the_interrupt_enabled():
    driver = Driver()
    driver.regs.write32("IRQ_CTRL", 0)
    driver.put(bytes(16))
    driver.ring()
    assert driver.regs.error_active
    assert driver.regs.interrupts == []


# ---- misuse


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (lambda r: r.read32("CMDQ_PRD"), r"^register 'CMDQ_PRD': unknown; did you mean 'CMDQ_PROD'\? valid: IDR0, "),
        (lambda r: r.write32("CR0", 1 << 32), r"^CR0: 0x100000000 is not valid: an integer, 0 to 0xffffffff$"),
        (lambda r: r.write32("CR0", -1), r"^CR0: -0x1 is not valid"),
        (lambda r: r.write32("CR0", True), r"^CR0: True is not valid: an integer, 0 to 0xffffffff$"),
        (lambda r: r.write64("CMDQ_BASE", 2.0), r"^CMDQ_BASE: 2.0 is not valid: an integer, 0 to 0xffffffffffffffff$"),
        (
            lambda r: CommandQueueRegisters(Ram(), QEMU, rules="linux"),
            r"^rules: 'linux' is not valid: 'arm' or 'qemu'$",
        ),
    ],
)
def test_misuse_is_refused_with_what_is_valid(access, message):
    with pytest.raises(Refused, match=message):
        access(CommandQueueRegisters(Ram(), features=QEMU))


def test_features_are_registers():
    with pytest.raises(ValueError, match=r"^idr0: 0x100000000 is not valid: 0 to 0xffffffff$"):
        Features.from_idr(idr0=1 << 32, idr1=0, idr3=0, idr5=0)
    with pytest.raises(ValueError, match=r"^idr1: CMDQS \(bits 25:21\) of 20 is not valid: 0 to 19$"):
        Features.from_idr(idr0=0, idr1=20 << 21, idr3=0, idr5=0)
