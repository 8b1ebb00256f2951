"""What must hold whatever comes in: errors are the documented ones, and what is accepted survives a round trip."""

import gzip
import operator
import re
import tempfile
from io import BytesIO
from pathlib import Path

from hypothesis import strategies as st

from smmu_lab.arch import (
    FIELDS,
    OPCODES,
    REGISTERS,
    RULES,
    Command,
    CommandQueueRegisters,
    Features,
    IllegalCommand,
    Queue,
    RegisterError,
    decode,
    rewrite,
)
from smmu_lab.arch.commands import RejectedCommand, UnknownStream
from smmu_lab.scenario.bundled import FOLDER
from smmu_lab.scenario.dump import open_file, read_dump, read_hex, read_hex_lines, read_queue
from smmu_lab.scenario.fields import InvalidInput
from smmu_lab.scenario.trace import HEADER, TraceError, read_entries, read_trace

PROPERTIES = {}
"""Check and strategies of each property, by name."""


def holds_for(**strategies):
    def keep(check):
        PROPERTIES[check.__name__] = check, strategies
        return check

    return keep


def attempt(errors, call, /, *args, **fields):
    """What a call gives and None, or None and its error, if it is one of these."""
    try:
        return call(*args, **fields), None
    except errors as error:
        return None, error


def outcome(stream, errors=InvalidInput):
    """What a stream gives, and the problems with which it breaks, if it does."""
    got = []
    _, error = attempt(errors, got.extend, stream)  # keeps what comes before an error
    problems = error.problems if error else ()
    assert bool(error) == bool(problems)
    assert not any("\n" in problem for problem in problems)
    return got, problems


# ---- commands

opcodes = st.sampled_from([*OPCODES.values(), 0x07])
legal = st.builds(lambda opcode, rest: bytes([opcode, *rest]), opcodes, st.binary(min_size=15, max_size=15))
entry = legal | st.binary(min_size=16, max_size=16)
words = st.integers() | st.integers(0, 2**64 - 1) | opcodes
names = st.sampled_from(
    [*FIELDS, *sorted({f.name for fields in FIELDS.values() for f in fields}), "global_", "self", "command"]
)
fitting = (
    st.integers(0, 1) | st.integers(0, 40) | st.integers(0, 2**52 - 1).map(lambda page: page << 12) | st.booleans()
)
values = fitting | fitting | st.integers() | st.none() | st.floats() | st.text()


def survives(command):
    """All forms of a command say the same."""
    assert decode(bytes(command)) == command
    assert eval(repr(command)) == command  # our own repr
    assert command.but() == Command.of(command.name, **command.fields) == command
    assert hash(command) == hash(Command(command.dw0, command.dw1))
    assert str(command).split()[0] == command.name
    assert str(command).isprintable()
    assert command.opcode == OPCODES[command.name]
    assert command.pages is None or command.pages > 0


@holds_for(raw=entry | st.binary(max_size=40), kind=st.sampled_from([bytes, bytearray, memoryview]))
def an_entry_decodes_or_is_illegal(raw, kind):
    command, error = attempt(ValueError, decode, kind(raw))
    if len(raw) != 16:
        assert type(error) is ValueError
        assert str(error) == f"raw16: {len(raw)} bytes are not valid: an entry has 16"
    elif raw[0] not in OPCODES.values():
        assert isinstance(error, IllegalCommand)
    elif error:
        assert isinstance(error, IllegalCommand)
        assert raw[1] & 4  # SSec
    else:
        survives(command)
        assert not any(kept & ~given for kept, given in zip(bytes(command), raw, strict=True))


@holds_for(dw0=words, dw1=words)
def two_words_are_a_command_or_illegal(dw0, dw1):
    command, illegal = attempt(IllegalCommand, Command, dw0, dw1)
    if illegal:
        assert dw0 & 0xFF not in OPCODES.values() or dw0 >> 10 & 1
    else:
        survives(command)


@st.composite
def calls(draw):
    """A name and fields for `Command.of`: of one command more often than not."""
    name = draw(st.sampled_from([*FIELDS]) | names | st.text())
    own = st.sampled_from([f"{f.name}{end}" for f in FIELDS.get(name, ()) for end in ("", "_")] or ["sid"])
    return name, draw(st.dictionaries(own | names | st.text(), values, max_size=5))


@holds_for(call=calls())
def fields_make_a_command_or_a_value_error(call):
    name, fields = call
    command, error = attempt(ValueError, Command.of, name, **fields)
    if not error:
        survives(command)
        assert command.fields.items() >= {n.removesuffix("_"): operator.index(v) for n, v in fields.items()}.items()


@holds_for(raw=legal, changes=st.dictionaries(names | st.text(), values, max_size=3))
def a_changed_command_differs_in_what_was_changed(raw, changes):
    command, illegal = attempt(IllegalCommand, decode, raw)
    changed, error = attempt(ValueError, command.but, **changes) if command else (None, illegal)
    if not error:
        survives(changed)
        assert changed.fields == command.fields | {n.removesuffix("_"): operator.index(v) for n, v in changes.items()}


@holds_for(
    raw=legal, own=st.booleans(), vmid=st.integers(0, 0xFFFF), sids=st.dictionaries(words, st.integers(0, 2**32 - 1))
)
def a_rewritten_command_has_the_guests_own_vmid_and_stream(raw, own, vmid, sids):
    command, illegal = attempt(IllegalCommand, decode, raw)
    if illegal:
        return
    if own:
        sids[command.fields.get("sid", 0)] = 0x2301
    issued, error = attempt((RejectedCommand, UnknownStream), rewrite, command, vmid, sids)
    if not error:
        survives(issued)
        assert issued.fields.get("vmid", vmid) == vmid
        assert "sid" not in issued.fields or issued.fields["sid"] in sids.values()


# ---- registers

SYNC = bytes(Command.of("CMD_SYNC"))


class Memory(dict):
    """Slots of memory by address: what is not there reads CMD_SYNC, None is a hole, and some bytes are too few."""

    def read(self, addr, n):
        raw = self.get(addr, SYNC)
        if raw is None:
            raise LookupError(hex(addr))
        return raw

    def write(self, addr, data):
        if self.get(addr, b"") is None:
            raise LookupError(hex(addr))
        self[addr] = data


BASE, HOLE, SILENT = 0x10000, 1 << 20, 1
features = st.builds(
    lambda idr0, cmdqs, idr3, idr5: Features.from_idr(idr0=idr0, idr1=cmdqs << 21, idr3=idr3, idr5=idr5),
    st.sampled_from([0xFFFFFFFF & ~(1 << 24), 0x0D44101B]) | st.integers(0, 2**32 - 1),
    st.integers(0, 5),  # small: a queue of 2^19 is the same, but slow
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1 << 7]),
)
msi = st.sampled_from([0, 0x2000, BASE + 16, HOLE])
plain = st.sampled_from([bytes(Command.of(name)) for name in FIELDS] + 9 * [bytes(Command.of("ATC_INV", sid=SILENT))])
syncs = st.builds(lambda cs, addr: bytes(Command.of("CMD_SYNC", cs=cs, msiaddr=addr)), st.integers(0, 3), msi)
slots = st.tuples(
    st.just("memory"),
    st.integers(0, 15).map(lambda slot: BASE + 16 * slot) | msi,
    plain | syncs | entry | st.none() | st.binary(max_size=17),
)
accesses = st.tuples(
    st.sampled_from(["write32", "write32", "write64", "read32", "read64"]),
    st.sampled_from([*REGISTERS, "CMDQ_PROD", "CMDQ_PROD", "GERRORN", "CR0"]) | st.text(max_size=12),
    st.integers(0, 70) | st.sampled_from([8, 9, BASE | 3, BASE | 31]) | st.integers(0, 2**64) | st.floats() | st.none(),
)
rings = st.tuples(st.just("write32"), st.just("CMDQ_PROD"), st.integers(0, 15))
others = st.sampled_from([("acknowledge", "", 0)] * 5 + [("reset", "", 0)])


@holds_for(
    rules=st.sampled_from([*RULES]),
    features=features,
    log2size=st.integers(0, 6),
    steps=st.lists(slots | accesses | rings | others, max_size=60),
)
def whatever_is_accessed_the_queue_keeps_its_rules(rules, features, log2size, steps):
    memory = Memory({HOLE: None})
    regs = CommandQueueRegisters(memory, features, rules, answered=lambda atc_inv: atc_inv.fields["sid"] != SILENT)
    for access in (("write64", "CMDQ_BASE", BASE | log2size), ("write32", "CR0", 9), *steps):
        match access:
            case "memory", addr, raw:
                memory[addr] = raw
                continue
            case "reset", _, _:
                regs.reset()
                assert not regs.enabled
                assert not regs.error_active
                regs.write64("CMDQ_BASE", BASE | log2size)
                access = ("write32", "CR0", 9)
            case "acknowledge", _, _:
                access = ("write32", "GERRORN", regs.read32("GERROR"))
        method, register, value = access
        bits = int(method.lstrip("readwit"))
        cons, active, ran, fetched = regs.read32("CMDQ_CONS"), regs.error_active, len(regs.executed), regs.fetched
        if method.startswith("read"):
            got, error = attempt(RegisterError, getattr(regs, method), register)
            assert error or 0 <= got < 1 << bits
            assert bool(error) == (register not in REGISTERS)
        else:
            _, error = attempt(RegisterError, getattr(regs, method), register, value)
            assert bool(error) == (register not in REGISTERS or not (type(value) is int and 0 <= value < 1 << bits))
        left = regs.queue.distance(regs.read32("CMDQ_CONS"), regs.read32("CMDQ_PROD"))
        if len(regs.executed) != ran:
            assert not active or register == "GERRORN"
            assert (method, register) in {("write32", name) for name in ("CMDQ_PROD", "CR0", "GERRORN")}
            assert left == 0 or regs.error_active
        assert len(regs.executed) - ran <= regs.fetched - fetched <= 2 * regs.queue.size
        if active and register not in ("GERRORN", "CMDQ_CONS", "CMDQ_BASE", "CMDQ_BASE+4"):
            assert regs.read32("CMDQ_CONS") == cons
        for name in REGISTERS:
            assert 0 <= regs.read32(name) < 1 << 32
    for command in regs.executed:
        survives(command)


@holds_for(idrs=st.lists(st.integers(0, 2**32 - 1) | st.integers(), min_size=4, max_size=4), rules=st.text())
def numbers_are_features_and_text_is_a_rule_set_or_refused(idrs, rules):
    names = ("idr0", "idr1", "idr3", "idr5")
    made, error = attempt(ValueError, Features.from_idr, **dict(zip(names, idrs, strict=True)))
    fits = all(0 <= idr < 1 << 32 for idr in idrs) and idrs[1] >> 21 & 31 <= 19
    assert bool(made) == fits == (error is None)
    if made:
        assert isinstance(made.stall, bool)
        regs, error = attempt(RegisterError, CommandQueueRegisters, Memory(), made, rules)
        assert (regs is None) == bool(error) == (rules not in RULES)


@holds_for(log2size=st.integers(0, 19) | st.integers() | st.floats() | st.none(), cons=words, prod=words)
def pointers_are_those_of_a_queue(log2size, cons, prod):
    queue, error = attempt(ValueError, Queue, log2size)
    assert (queue is None) == bool(error)
    if queue:
        assert 0 <= queue.distance(cons, prod) <= queue.mask
        assert queue.index(cons) < queue.size
        assert queue.full(cons, prod) == (queue.space(cons, prod) == 0)
        assert queue.empty(cons, prod) == (queue.distance(cons, prod) == 0)


# ---- streams of entries

FOLDER_OF_FILES = tempfile.TemporaryDirectory()  # removed when the interpreter ends
SCRATCH = Path(FOLDER_OF_FILES.name)


def hurt(raw, damage):
    """Bytes with some overwritten, or cut off if there is nothing to write."""
    if damage is None:
        return raw
    place, new = damage
    return raw[:place] + (new + raw[place + len(new) :] if new else b"")


def pack(raw):
    """Compressed bytes, the same at any time."""
    return gzip.compress(raw, 1, mtime=0)


@holds_for(
    content=st.binary(max_size=200) | st.lists(entry, max_size=20).map(b"".join),
    packed=st.booleans(),
    damage=st.none() | st.tuples(st.integers(0, 60), st.binary(max_size=2)),
)
def a_dump_gives_its_whole_entries_packed_or_not(content, packed, damage):
    path = SCRATCH / f"cmdq.bin{packed * '.gz'}"
    path.write_bytes(hurt(pack(content) if packed else content, damage))

    def read():
        with open_file(path) as file:
            yield from read_dump(file)

    got, problems = outcome(read())
    if not damage and (packed or content[:3] != b"\x1f\x8b\x08"):
        whole = len(content) // 16
        assert (b"".join(got), bool(problems)) == (content[: 16 * whole], len(content) % 16 > 0)
    assert all(len(raw) == 16 for raw in got)


@holds_for(
    content=st.binary(max_size=300) | st.integers(0, 5).map(lambda n: bytes(16 << n)),
    cons=st.integers(0, 70) | st.integers(),
    prod=st.integers(0, 70) | st.integers(),
    log2size=st.none() | st.integers(0, 6) | st.integers(),
)
def a_queue_gives_at_most_its_size(content, cons, prod, log2size):
    got, problems = outcome(read_queue(BytesIO(content), cons=cons, prod=prod, log2size=log2size))
    assert len(got) <= max(1, len(content) // 16)
    assert all(raw in content and len(raw) == 16 for raw in got)
    if not problems:
        size = 1 << log2size if log2size is not None else len(content) // 16
        assert len(got) == (prod - cons) % (2 * size)


two_words = st.lists(st.binary(min_size=7, max_size=9).map(lambda raw: f"0x{raw.hex()}"), max_size=3).map(" ".join)


@holds_for(text=st.text() | st.text("0123456789abcdefABCDEFx_ \t", min_size=25, max_size=50) | two_words)
def digits_are_an_entry_or_refused(text):
    raw, error = attempt(InvalidInput, read_hex, text)
    groups = text.lower().split()
    if [len(group) for group in groups] == [18, 18] and all(re.fullmatch("0x[0-9a-f]{16}", group) for group in groups):
        assert raw == b"".join(int(group, 16).to_bytes(8, "little") for group in groups)
    else:
        assert error or raw.hex() == "".join(group.removeprefix("0x") for group in groups).replace("_", "")


lines = entry.map(lambda raw: raw.hex().encode()) | st.binary(max_size=40) | st.integers(250, 260).map(bytes)


@holds_for(content=st.binary(max_size=400) | st.lists(lines, max_size=9).map(b"\n".join))
def lines_are_entries_up_to_the_first_that_is_none(content):
    got, problems = outcome(read_hex_lines(BytesIO(content)))
    given = sum(bool(line.decode(errors="backslashreplace").strip()) for line in content.split(b"\n"))
    assert len(got) + bool(problems) <= given
    assert problems or len(got) == given


# ---- traces

TRACES = [
    gzip.decompress((FOLDER / f"{name}.csv.gz").read_bytes()).splitlines(keepends=True)[:150]
    for name in ("nvme_dd_r1m_j1_strict_61", "nvme_dd_r4k_j1_strict_612", "e1000e_rx16m_lazy_61")
]
CELLS = [
    "",
    "0",
    "-1",
    "1",
    "65535",
    "65536",
    "9" * 19,
    "0x0",
    "0x90",
    "0x2730010",
    "f" * 32,
    "C",
    "D",
    "M",
    "SYNC",
    600 * "0",
]
row = st.integers(0, 149)
edits = st.one_of(
    st.tuples(st.just("cell"), row, st.integers(0, len(HEADER)), st.sampled_from(CELLS) | st.text(max_size=9)),
    st.tuples(st.just("cell"), row, st.sampled_from([2, 3, 4, 5]), st.integers(0, 1 << 18).map(str)),
    st.tuples(st.just("cell"), row, st.just(6), st.sampled_from([*FIELDS, "SYNC", "wl_begin", "begin"])),
    st.tuples(st.just("cell"), row, st.just(7), entry.map(bytes.hex)),
    st.tuples(st.sampled_from(["drop", "double", "cut"]), row),
    st.tuples(st.just("swap"), row, row),
)


def edited(lines, changes):
    """A trace with changes made to its rows."""
    lines = list(lines)
    for what, number, *more in changes:
        number %= len(lines)
        match what:
            case "cell":
                cells = lines[number].decode().rstrip("\n").split(",")
                cells[more[0] : more[0] + 1] = [more[1]]
                lines[number] = ",".join(cells).encode(errors="replace") + b"\n"
            case "drop" if len(lines) > 1:
                del lines[number]
            case "double":
                lines.insert(number, lines[number])
            case "cut":
                del lines[number + 1 :]
            case "swap":
                other = more[0] % len(lines)
                lines[number], lines[other] = lines[other], lines[number]
    return b"".join(lines)


@holds_for(
    content=st.builds(edited, st.sampled_from(TRACES), st.lists(edits, max_size=4)) | st.binary(max_size=300),
    packed=st.booleans(),
    damage=st.none() | st.tuples(st.integers(0, 3000), st.binary(max_size=3)),
)
def a_trace_is_read_or_refused_as_a_whole_and_as_a_stream_alike(content, packed, damage):
    path = SCRATCH / f"fuzzed.csv{packed * '.gz'}"
    path.write_bytes(hurt(pack(content) if packed else content, damage))
    streamed, problems = outcome(read_entries(path), TraceError)
    trace, error = attempt(TraceError, read_trace, path)
    assert problems == (error.problems if error else ())
    if error:
        return
    assert streamed == [trace.commands.raw16(i) or b"" for i in range(len(trace.commands))]
    trace.sheet()
    for section in ("workload", "all"):
        trace.summary(section)
        trace.publications(section)
        trace.operations(section)
    assert str(trace).startswith("fuzzed: ")


@holds_for(name=st.text().filter(lambda name: name != "-"), suffix=st.sampled_from(["", ".csv", ".gz"]))
def a_name_of_no_trace_is_refused(name, suffix):
    for read in (read_trace, lambda source: next(read_entries(source))):
        _, error = attempt(TraceError, read, f"{name}{suffix}")
        assert len(error.problems) == 1
