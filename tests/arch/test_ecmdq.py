from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.arch import OPCODES, Command, CommandQueueRegisters, Features, Queue
from smmu_lab.arch.consumer import Refused, RegisterError
from smmu_lab.arch.ecmdq import ECMDQ_PROD_EN, ECMDQ_PROD_ERRACK, ECMDQ_REGISTERS, ControlPages
from smmu_lab.arch.vcmdq import Vintf

ALL = Features.from_idr(idr0=0xFEFF_FFFF & ~(3 << 24), idr1=0x82730010, idr3=0x1414, idr5=0xF4)
"""Every feature: ATS, PRI, MSI, EL2, stalls, ECMDQ."""

SYNC = Command.of("CMD_SYNC")
BASE, EN = 0x10000, ECMDQ_PROD_EN
ILL, ABT, ATC = 1, 2, 3
CMDQ_ERR, MSI_CMDQ_ABT_ERR, CMDQP_ERR = 1 << 0, 1 << 4, 1 << 9


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


class Cpu:
    """The driver of one ECMDQ, which recovers as Linux's patches do; `cmdq` is the SMMU's own queue, enabled."""

    def __init__(self, pages=None, index=0, log2size=3, **more):
        if not pages:
            smmu = CommandQueueRegisters(Ram(), ALL, **more)
            for register, value in (("CMDQ_BASE", 0x1000 | 3), ("IRQ_CTRL", 1), ("CR0", 9)):
                smmu.write32(register, value)
            pages = ControlPages(smmu, idr6=1 << 24 | 1 << 16)
        self.pages, self.smmu = pages, pages.smmu
        self.ram, self.base = self.smmu.memory, BASE << index
        self.queue, self.prod = Queue(log2size), 0
        self.ecmdq = pages.queues[index]
        self.ecmdq.write64("BASE", self.base | log2size)
        self.flags = EN
        self.ring()

    def ring(self):
        self.ecmdq.write32("PROD", self.flags | self.prod)

    def put(self, *entries):
        for entry in entries:
            self.ram[self.base + 16 * self.queue.index(self.prod)] = bytes(entry)
            self.prod = self.queue.advance(self.prod)
        self.ring()

    @property
    def cons(self):
        return self.ecmdq.read32("CONS") & self.queue.mask

    @property
    def reason(self):
        return self.ecmdq.read32("CONS") >> 24 & 7

    def recover(self):
        """arm_smmu_ecmdq_skip_err: replace an illegal command by a CMD_SYNC, then ERRACK = ERR."""
        if self.reason == ILL:
            self.ram[self.base + 16 * self.queue.index(self.cons)] = bytes(SYNC)
        self.flags = EN | self.ecmdq.read32("CONS") & ECMDQ_PROD_ERRACK
        self.ring()


def state(ecmdq):
    registers = ecmdq.read64("BASE"), ecmdq.read32("PROD"), ecmdq.read32("CONS")
    return registers, list(ecmdq.executed), ecmdq.fetched, ecmdq.stopped_by


random_entries = st.binary(min_size=16, max_size=16)
entries = st.one_of(
    random_entries,
    st.builds(lambda op, raw: bytes([op]) + raw[1:], st.sampled_from(sorted(OPCODES.values())), random_entries),
    st.sampled_from([bytes(SYNC), bytes(Command.of("CFGI_STE", sid=8)), bytes([7] + [0] * 15)]),
)


# ---- what it shares with the physical queue


@given(st.sampled_from(["arm", "qemu"]), entries)
def test_it_takes_what_the_physical_queue_takes_as_it_is(rules, raw):
    cpu = Cpu(rules=rules)
    cpu.put(raw)
    cpu.ram[0x1000] = raw
    cpu.smmu.write32("CMDQ_PROD", 1)
    assert cpu.ecmdq.executed == cpu.smmu.executed
    assert (cpu.cons, cpu.reason) == (cpu.smmu.read32("CMDQ_CONS") & 1, cpu.smmu.read32("CMDQ_CONS") >> 24)
    assert cpu.ecmdq.error_active == cpu.smmu.error_active


@given(st.lists(st.tuples(st.lists(entries, max_size=8), st.booleans()), max_size=6))
def test_each_command_runs_once_in_order_and_no_other_queue_changes(rounds):
    """I-1, I-4, I-18, I-23 and I-24."""
    cpu, wanted = Cpu(), []
    other = Cpu(cpu.pages, 3)
    other.put(SYNC, bytes(16), SYNC)
    before_other = state(other.ecmdq)
    for batch, recover in rounds:
        batch = batch[: cpu.queue.space(cpu.cons, cpu.prod)]
        for raw in batch:
            alone = Cpu()
            alone.put(raw)
            wanted += alone.ecmdq.executed or [SYNC]
        before = state(cpu.ecmdq)[1:], cpu.cons, cpu.ecmdq.error_active
        cpu.put(*batch)
        if before[2]:
            assert (state(cpu.ecmdq)[1:], cpu.cons, cpu.ecmdq.error_active) == before
        assert 0 <= cpu.queue.distance(cpu.cons, cpu.prod) <= cpu.queue.size
        assert cpu.ecmdq.executed == wanted[: len(cpu.ecmdq.executed)]
        while recover and cpu.ecmdq.error_active:
            cpu.recover()
    while cpu.ecmdq.error_active:
        cpu.recover()
    assert cpu.ecmdq.executed == wanted
    assert cpu.cons == cpu.prod
    assert state(other.ecmdq) == before_other


@pytest.mark.parametrize("given", [0, 15, 17])
def test_an_entry_that_memory_gives_in_part_is_an_abort_in_every_form_of_the_queue(given):
    class Cut:
        def read(self, addr, n):
            return bytes(given)

    smmu = CommandQueueRegisters(Cut(), ALL)
    vcmdq = Vintf(Cut(), ALL, vmid=1).allocate(0, BASE, 128)
    ecmdq = ControlPages(smmu, 0).queues[0]
    for queue, writes in (
        (smmu, (("CMDQ_BASE", BASE | 3), ("CR0", 8), ("CMDQ_PROD", 1))),
        (vcmdq, (("CONFIG", 1), ("PROD", 1))),
        (ecmdq, (("BASE", BASE | 3), ("PROD", EN | 1))),
    ):
        for register, value in writes:
            queue.write32(register, value)
        assert (queue.error_active, queue.fetched) == (True, 0)
        assert queue.stopped_by == f"entry 0 at 0x10000: memory gives {given} bytes, an entry has 16 (CERROR_ABT)"
    assert [smmu.read32("CMDQ_CONS") >> 24, vcmdq.read32("CONS") >> 24, ecmdq.read32("CONS") >> 24 & 7] == [ABT] * 3


# ---- enable


def test_a_doorbell_without_en_switches_the_queue_off_and_enack_follows():
    cpu = Cpu()
    cpu.put(SYNC)
    assert cpu.ecmdq.read32("CONS") == EN | 1
    cpu.flags = 0
    cpu.put(SYNC)
    assert (cpu.ecmdq.read32("CONS"), cpu.ecmdq.enabled) == (1, False)
    cpu.flags = EN
    cpu.ring()
    assert cpu.ecmdq.read32("CONS") == EN | 2


def test_enack_follows_while_an_error_is_active_and_the_error_stays():
    """Arm IHI 0070 section 3.5.6.2."""
    cpu = Cpu()
    cpu.put(bytes(16))
    cpu.ecmdq.write32("PROD", 1)
    assert cpu.ecmdq.read32("CONS") == ILL << 24 | 1 << 23
    cpu.ecmdq.write32("PROD", EN | 1)
    assert (cpu.ecmdq.read32("CONS"), cpu.ecmdq.fetched) == (EN | ILL << 24 | 1 << 23, 1)


def test_base_and_cons_are_read_only_while_the_queue_is_enabled():
    cpu = Cpu()
    for enabled in (EN, 0):
        cpu.ecmdq.write32("PROD", enabled)
        cpu.ecmdq.write64("BASE", 1 << 63 | 1 << 62 | 0x20000 | 3)
        cpu.ecmdq.write32("CONS", 0x7F80_0005)
        assert cpu.ecmdq.read64("BASE") == (BASE | 3 if enabled else 1 << 62 | 0x20000 | 3)
        assert cpu.ecmdq.read32("CONS") == (EN if enabled else 0x0780_0005)


# ---- errors


@pytest.mark.parametrize(
    ("reason", "bad"),
    [(ILL, [bytes([7] + [0] * 15)]), (ABT, [SYNC]), (ATC, [Command.of("ATC_INV", sid=8), SYNC])],
)
def test_an_error_toggles_err_and_tells_why_until_errack_agrees(reason, bad):
    cpu = Cpu(answered=lambda command: False)
    for err in (1, 0):
        first = cpu.prod + len(bad) - 1
        cpu.ram.end = BASE if reason == ABT else 1 << 40
        cpu.put(*bad, SYNC)
        assert cpu.ecmdq.read32("CONS") == EN | reason << 24 | err << 23 | first
        cpu.smmu.write32("GERRORN", cpu.smmu.read32("GERROR"))
        cpu.ring()
        assert cpu.ecmdq.read32("CONS") == EN | reason << 24 | err << 23 | first  # GERRORN and a doorbell do nothing
        cpu.ram.end = 1 << 40
        cpu.recover()
        assert (cpu.cons, cpu.ecmdq.error_active) == (cpu.prod, False)


def test_errors_of_all_ecmdqs_are_one_bit_of_gerror_toggled_while_it_is_inactive():
    """Arm IHI 0070 section 3.5.6.3."""
    first = Cpu()
    second = Cpu(first.pages, 1)
    smmu = first.smmu
    first.put(bytes(16))
    second.put(bytes(16))
    assert (smmu.read32("GERROR"), smmu.interrupts) == (CMDQP_ERR, ["gerror"])
    first.recover()
    assert smmu.read32("GERROR") == CMDQP_ERR
    smmu.write32("GERRORN", CMDQP_ERR)
    assert second.ecmdq.error_active
    first.put(bytes(16))
    assert (smmu.read32("GERROR"), smmu.interrupts) == (0, ["gerror"] * 2)


def test_the_physical_queue_and_the_ecmdqs_stop_independently():
    """Arm IHI 0070 section 3.5.6.3."""
    cpu = Cpu()
    cpu.smmu.write32("CMDQ_PROD", 1)  # an entry of zeros
    assert (cpu.smmu.read32("GERROR"), cpu.smmu.error_active) == (CMDQ_ERR, True)
    cpu.put(SYNC, bytes(16))
    assert (cpu.cons, cpu.smmu.read32("GERROR")) == (1, CMDQ_ERR | CMDQP_ERR)
    cpu.ram[0x1000] = bytes(SYNC)
    cpu.smmu.write32("GERRORN", CMDQ_ERR)
    assert (cpu.smmu.read32("CMDQ_CONS") & 1, cpu.smmu.error_active, cpu.ecmdq.error_active) == (1, False, True)


def test_without_ecmdq_gerror_has_no_such_bit():
    smmu = CommandQueueRegisters(Ram(), Features.from_idr(idr0=0, idr1=0x02730010, idr3=0, idr5=0))
    smmu.write32("GERRORN", CMDQP_ERR)
    assert smmu.read32("GERRORN") == 0


def test_a_sync_signals_as_on_the_physical_queue():
    cpu = Cpu()
    cpu.put(*(Command.of("CMD_SYNC", cs=1, msiaddr=addr, msidata=0xABCD) for addr in (0x2000, 1 << 41)), SYNC)
    assert cpu.ram[0x2000] == b"\xcd\xab\0\0"
    assert (cpu.cons, cpu.ecmdq.error_active, cpu.smmu.read32("GERROR")) == (3, False, MSI_CMDQ_ABT_ERR)
    assert cpu.smmu.interrupts == ["cmd-sync", "cmd-sync", "gerror"]


def test_a_timeout_is_of_the_queue_that_sent_the_atc_inv():
    """I-9: a CMD_SYNC is about its own queue only (Arm IHI 0070 section 3.5.6.1)."""
    cpu = Cpu(answered=lambda command: False)
    other = Cpu(cpu.pages, 1)
    cpu.put(Command.of("ATC_INV", sid=8))
    other.put(SYNC)
    assert (other.cons, other.ecmdq.error_active) == (1, False)
    cpu.put(SYNC)
    assert cpu.reason == ATC


def test_no_device_is_asked_while_the_smmu_is_off():
    cpu = Cpu(answered=lambda command: pytest.fail("asked"))
    cpu.smmu.write32("CR0", 8)
    cpu.put(Command.of("ATC_INV", sid=8), SYNC)
    assert cpu.cons == 2


@pytest.mark.parametrize("pending", [[bytes(16)], [Command.of("ATC_INV", sid=8)]])
def test_reset_of_the_smmu_leaves_no_ecmdq_running_and_none_of_its_errors_or_timeouts(pending):
    cpu = Cpu(answered=lambda command: False)
    cpu.put(*pending)
    cpu.smmu.reset()
    assert not cpu.ecmdq.enabled
    assert [cpu.ecmdq.read32(register) for register in ECMDQ_REGISTERS] == [0] * 4
    again = Cpu(cpu.pages)
    again.put(SYNC)
    assert (again.cons, again.ecmdq.error_active, again.ecmdq.executed[-1]) == (1, False, SYNC)


# ---- layout


@given(st.integers(0, 3), st.integers(0, 8), st.data())
def test_the_queues_are_spaced_evenly_in_pages_of_64_kib(log2nump, log2numq, data):
    """Arm IHI 0070 section 6.2.5."""
    pages = ControlPages(CommandQueueRegisters(Ram(), ALL), log2nump << 24 | log2numq << 16)
    assert len(pages.queues) == 2**log2nump * 2**log2numq
    page, queue = data.draw(st.integers(0, 2**log2nump - 1)), data.draw(st.integers(0, 2**log2numq - 1))
    for name, at in (("BASE", 0), ("BASE+4", 4), ("PROD", 8), ("CONS", 0xC)):
        found = pages.at(0x10000 * page + 0x10000 // 2**log2numq * queue + at)
        assert found == (pages.queues[page * 2**log2numq + queue], name)


@pytest.mark.parametrize("offset", [2, 0x10, 0x7FFC, 0x1FFFC])
def test_where_no_register_is_an_access_is_refused(offset):
    pages = ControlPages(CommandQueueRegisters(Ram(), ALL), 1 << 24 | 1 << 16)
    with pytest.raises(RegisterError, match=r"^offset 0x[0-9a-f]+: no register; valid: 0x8000 \* \(0 to 3\) \+ BASE"):
        pages.at(offset)


def test_each_cpu_gets_a_queue_or_none_does():
    pages = ControlPages(CommandQueueRegisters(Ram(), ALL), 1 << 24 | 1 << 16)
    assert pages.per_cpu(4) == pages.queues
    assert pages.per_cpu(3) == pages.queues[:3]
    with pytest.raises(Refused, match=r"^ENOSPC: cpus: 5 CPUs need as many queues \(valid: at most 4\)$") as refused:
        pages.per_cpu(5)
    assert refused.value.errno == "ENOSPC"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ControlPages(CommandQueueRegisters(Ram(), ALL), 9 << 24),
            r"^idr6: LOG2NUMP \(bits 27:24\) of 9 is not",
        ),
        (
            lambda: ControlPages(CommandQueueRegisters(Ram(), ALL), 9 << 16),
            r"^idr6: LOG2NUMQ \(bits 19:16\) of 9 is not",
        ),
        (
            lambda: ControlPages(CommandQueueRegisters(Ram(), Features.from_idr(idr0=0, idr1=0, idr3=0, idr5=0)), 0),
            r"^smmu: ECMDQ \(bit 31\) of IDR1 is 0, the SMMU has no control page \(valid: 1\)$",
        ),
        (
            lambda: ControlPages(CommandQueueRegisters(Ram(), ALL), 0).per_cpu(0),
            r"^cpus: 0 is not valid: an integer, 1 or",
        ),
        (lambda: ControlPages(CommandQueueRegisters(Ram(), ALL), 0).per_cpu(1.5), r"^cpus: 1\.5 is not valid: an int"),
        (lambda: ControlPages(CommandQueueRegisters(Ram(), ALL), "x"), r"^idr6: 'x' is not valid: an integer, 0 to 0x"),
        (
            lambda: ControlPages(CommandQueueRegisters(Ram(), ALL), 0).at(8.0),
            r"^offset: 8\.0 is not valid: an integer, ",
        ),
        (
            lambda: ControlPages(CommandQueueRegisters(Ram(), ALL), 1 << 24).at(0x20000),
            r"^offset: 0x20000 is not valid: an integer, 0 to 0x1ffff$",
        ),
        (
            lambda: ControlPages(CommandQueueRegisters(Ram(), ALL), 0).at(-8),
            r"^offset: -0x8 is not valid: an integer, ",
        ),
    ],
)
def test_misuse_is_refused_with_what_is_valid(call, message):
    with pytest.raises(ValueError, match=message):
        call()
