"""Queue entries as bytes: each recorded one decodes to what QEMU said, and streams of them are read one by one."""

import gzip
import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.arch import FIELDS, OPCODES, Command, CommandQueueRegisters, Features, IllegalCommand, decode
from smmu_lab.scenario import InvalidInput, read_trace, traces
from smmu_lab.scenario.dump import open_file, read_command, read_dump, read_hex, read_hex_lines, read_queue
from smmu_lab.scenario.recorded import QEMU_OPCODES
from smmu_lab.scenario.trace import HEADER, read_entries

FILES = sorted(Path(__file__).parents[1].glob("data/traces/*.csv.gz"))


@pytest.mark.parametrize("source", [*traces(), *FILES], ids=lambda source: Path(source).name.split(".")[0])
def test_each_command_decodes_to_what_qemu_said(source):
    commands = read_trace(source).commands
    decoded = 0
    for index in range(len(commands)):
        raw = commands.raw16(index)
        if raw is None:
            assert source not in traces(), "a bundled guest is complete"
            continue
        command = decode(raw)
        decoded += 1
        assert bytes(command) == raw
        assert command.opcode == commands.opcode[index]
        fields = command.fields
        if command.name in ("TLBI_NH_VA", "TLBI_NH_ASID"):
            assert fields["asid"] == commands.asid[index]
        if command.name == "TLBI_NH_VA":
            assert fields["va"] == commands.addr[index]
            assert fields["tg"] == commands.tg[index]
            assert fields["ttl"] == commands.ttl[index]
            assert fields["leaf"] == commands.leaf[index]
            assert command.pages == commands.num_pages[index]
        if command.name == "CFGI_STE":
            assert fields["sid"] == commands.addr[index]
    assert decoded == sum(commands.recorded)
    entries = list(read_entries(source))
    assert [raw if not raw.name else None for raw in entries] == [commands.raw16(i) for i in range(len(commands))]
    assert [raw == b"" for raw in entries] == [raw.name in OPCODES for raw in entries]


def test_the_names_are_those_of_the_specification():
    assert {QEMU_OPCODES["SYNC"], QEMU_OPCODES["PREFETCH_CONFIG"]} == {0x46, 0x01}


# ---- dumps of memory

SYNC = bytes(Command.of("CMD_SYNC"))
ILL = bytes([7] + 15 * [0])
entries = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


def until_it_breaks(stream):
    """What a stream gives, and what it says when it breaks."""
    got = []
    try:
        got.extend(stream)  # keeps what came before an error
    except InvalidInput as error:
        return got, str(error)
    return got, ""


@given(entries, st.binary(max_size=15))
def test_a_dump_gives_every_whole_entry_and_names_a_truncated_one(whole, rest):
    got, message = until_it_breaks(read_dump(io.BytesIO(b"".join(whole) + rest), "cmdq.bin"))
    assert got == whole
    n = len(whole)
    assert message == (f"cmdq.bin: entry {n} at offset {16 * n:#x}: the dump ends after {len(rest)} of 16 bytes"
                       if rest else "")  # fmt: skip


@given(st.integers(0, 5), st.integers(0, 2**32 - 1), st.integers(0, 100), st.integers(0, 127), st.data())
def test_a_queue_goes_from_cons_to_prod_round_its_end(log2size, cons, n, high, data):
    size = 1 << log2size
    n %= size + 1
    cons = cons & (2 * size - 1) | high << 24  # bits [30:24] are ERR
    prod = (cons + n) % (2 * size)
    memory = [bytes([i] * 16) for i in range(size)]
    extra = data.draw(st.binary(max_size=40))
    dumped = io.BytesIO(b"".join(memory) + extra)
    turned = [*memory[cons % size :], *memory[: cons % size]]
    got = list(read_queue(dumped, cons=cons, prod=prod, log2size=log2size))
    assert got == turned[:n]
    assert [raw.where for raw in got] == [f"entry {raw[0]} at offset {16 * raw[0]:#x}" for raw in got]
    assert list(read_queue(io.BytesIO(b"".join(memory)), cons=cons, prod=prod)) == turned[:n]


@pytest.mark.parametrize(
    ("size", "given", "message"),
    [
        (
            64,
            {"cons": 0, "prod": 5},
            "prod: 0x5 is not valid: up to 4 entries beyond CONS = 0x0, wrap bit (bit 2) incl",
        ),
        (64, {"cons": 3, "prod": 1}, "prod: 0x1 is not valid: up to 4 entries beyond CONS = 0x3"),
        (
            64,
            {"cons": 0x1FFF0, "prod": 0x1FFF3},
            "cons: 0x1fff0 is not valid: up to 0x7 below ERR, as log2size is 2\n"
            "prod: 0x1fff3 is not valid: up to 0x7, as log2size is 2",
        ),
        (64, {"cons": 8, "prod": 1, "log2size": 2}, "cons: 0x8 is not valid: up to 0x7 below ERR, as log2size is 2"),
        (48, {"cons": 0, "prod": 1}, "cmdq.bin: 48 bytes are not valid: 16 bytes times a power of two, up to 2^19"),
        (0, {"cons": 0, "prod": 1}, "cmdq.bin: 0 bytes are not valid"),
        (20, {"cons": 0, "prod": 1}, "cmdq.bin: 20 bytes are not valid"),
        (16 << 20, {"cons": 0, "prod": 1}, "cmdq.bin: more than 8388608 bytes are not valid"),
        (64, {"cons": 0, "prod": 1, "log2size": 20}, "log2size: 20 is not valid: 0 to 19"),
        (
            64,
            {"cons": -1, "prod": 1 << 32},
            "cons: -0x1 is not valid: 0 to 0xffffffff\nprod: 0x100000000 is not valid: 0 to",
        ),
        (40, {"cons": 2, "prod": 3, "log2size": 2}, "cmdq.bin: entry 2 at offset 0x20: the dump ends after 8 of 16 b"),
        (40, {"cons": 3, "prod": 4, "log2size": 2}, "cmdq.bin: entry 3 at offset 0x30: the dump ends after 0 of 16 b"),
    ],
)
def test_pointers_that_no_queue_has_are_refused(size, given, message):
    got, said = until_it_breaks(read_queue(io.BytesIO(bytes(size)), "cmdq.bin", **given))
    assert got == []
    assert said.startswith(message)


@pytest.mark.parametrize("name", ["cmdq.bin.gz", "CMDQ.BIN.GZ", "cmdq.bin"])
def test_a_compressed_dump_is_a_dump_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(3 * SYNC))
    with open_file(path) as file:
        assert list(read_dump(file)) == 3 * [SYNC]


def test_a_damaged_dump_says_where(tmp_path):
    path = tmp_path / "cmdq.bin.gz"
    path.write_bytes(b"plain")
    with open_file(path) as file:
        assert until_it_breaks(read_dump(file, "it"))[1].startswith(
            "it: entry 0 at offset 0x0: cannot be read: Not a g"
        )
    path.write_bytes(b"")
    with pytest.raises(InvalidInput, match="cannot be read: it is empty, and no gzip file"), open_file(path):
        pass
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"), open_file(tmp_path):
        pass


def peak(stream):
    """The most memory that reading a stream to its end takes."""
    tracemalloc.start()
    try:
        for raw in stream:
            str(decode(raw))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_dump_takes_the_same_memory_whatever_its_length(tmp_path):
    def dump(n):
        path = tmp_path / f"{n}.bin"
        path.write_bytes(n * SYNC)
        with path.open("rb") as file:
            return peak(read_dump(file))

    dump(1)  # to warm up
    assert dump(30_000) < dump(1_000) + 1_000


def test_a_trace_takes_the_same_memory_whatever_its_length(tmp_path):
    def trace(doorbells):
        path = tmp_path / f"{doorbells}.csv"
        with path.open("w") as file:
            print(*HEADER, sep=",", file=file)
            for i in range(doorbells):
                cons, prod = i % (2 << 16), (i + 1) % (2 << 16)
                print(f"{i},0,D,1,{prod},{cons}" + 10 * ",", file=file)
                print(f"{i},0,C,,{prod},{cons},SYNC,{SYNC.hex()}" + 8 * ",", file=file)
                print(f"{i},0,R,,,{prod}" + 10 * ",", file=file)
        return peak(read_entries(path))

    assert trace(4_000) < trace(400) + 10_000


def test_lines_take_the_same_memory_whatever_their_number(tmp_path):
    def lines(n):
        path = tmp_path / f"{n}.txt"
        path.write_text(n * f"{SYNC.hex()}\n")
        with path.open("rb") as file:
            return peak(read_hex_lines(file))

    lines(1)  # to warm up
    assert lines(30_000) < lines(1_000) + 1_000


# ---- hexadecimal


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_two_numbers_are_the_words_of_an_entry(dw0, dw1):
    raw = read_hex(f" {dw0:#018x} {dw1:#018x}\n")
    assert [int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")] == [dw0, dw1]


@given(entries)
def test_lines_of_digits_are_entries(whole):
    text = "".join(f"\n 0x{raw.hex('_', 4)} \r\n" for raw in whole)
    assert list(read_hex_lines(io.BytesIO(text.encode()))) == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"4620", "line 2: '4620' is not valid: 32 hexadecimal digits (there are 4)"),
        (b" 0x4620_g\n", "line 2: '0x4620_g' is not valid: 32 hexadecimal digits (column 9 is 'g')"),
        (b"000x" + 30 * b"0", "is not valid: 32 hexadecimal digits (column 4 is 'x')"),
        (b"\xff", "line 2: '\\\\xff' is not valid: 32 hexadecimal digits (column 1 is '\\\\')"),
        ("\uff14".encode(), "line 2: '\uff14' is not valid: 32 hexadecimal digits (column 1 is '\uff14')"),
        (300 * b" ", "is not valid: 32 hexadecimal digits in 256 bytes"),
    ],
)
def test_a_line_that_is_no_entry_is_named_after_those_before(line, message):
    got, said = until_it_breaks(read_hex_lines(io.BytesIO(SYNC.hex().encode() + b"\n" + line)))
    assert got == [SYNC]
    assert message in said


# ---- what is illegal

REGISTER = st.integers(0, 2**32 - 1)


@given(
    st.sampled_from([*FIELDS]),
    st.binary(min_size=15, max_size=15),
    st.builds(
        lambda idr0, idr3, idr5: Features.from_idr(idr0=idr0, idr1=0, idr3=idr3, idr5=idr5),
        REGISTER,
        REGISTER,
        REGISTER,
    ),
)
def test_where_it_says_illegal_each_smmu_stops(name, rest, features):
    raw = bytes([OPCODES[name], *rest])
    smmu = CommandQueueRegisters(Ram(raw), features, "arm")
    smmu.write64("CMDQ_BASE", 0)
    smmu.write32("CR0", 9)
    smmu.write32("CMDQ_PROD", 1)
    try:
        read_command(raw)
    except IllegalCommand:
        assert (smmu.read32("CMDQ_CONS") >> 24, smmu.error_active) == (1, True)


class Ram:
    """A queue of one entry, and memory that takes what an MSI writes."""

    def __init__(self, raw):
        self.raw = raw

    def read(self, addr, n):
        return self.raw[:n]

    def write(self, addr, data):
        pass


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("CMD_SYNC", {"cs": 3}, "CS = 3 is reserved"),
        ("PRI_RESP", {"resp": 3}, "Resp = 3 is reserved"),
        ("TLBI_EL3_ALL", {}, "only valid on the Secure queue"),
        ("TLBI_EL3_VA", {}, "only valid on the Secure queue"),
    ],
)
def test_what_no_feature_makes_legal_is_illegal(name, fields, why):
    with pytest.raises(IllegalCommand, match=f"^{name}: {why} \\(CERROR_ILL\\)$"):
        read_command(bytes(Command.of(name, **fields)))


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"TLBI_EL3_ALL", "TLBI_EL3_VA"}))
def test_what_some_feature_makes_legal_is_legal(name):
    assert read_command(bytes(Command.of(name))).name == name


# ---- the shell


PROGRAM = "from smmu_lab.cli import main; main()"


def smmu_lab(*args, **more):
    program = [sys.executable, "-c", PROGRAM, "decode", *args]
    return subprocess.Popen(program, **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | more)


def run(*args, given=b""):
    done = smmu_lab(*args)
    out, err = done.communicate(given, timeout=120)
    return done.returncode, out.decode().splitlines(), err.decode().splitlines()


def test_each_entry_is_decoded_when_it_arrives():
    for args, entry in (((), SYNC.hex().encode() + b"\n"), (("--dump", "-"), SYNC)):
        with smmu_lab(*args) as running:
            for _ in range(2):
                running.stdin.write(entry)
                running.stdin.flush()
                assert running.stdout.readline() == b"CMD_SYNC CS=NONE\n"


def test_an_illegal_entry_keeps_its_place_and_is_status_1():
    why = "opcode 0x07 is not a command of the SMMUv3 queue (CERROR_ILL)"

    def wanted(where):
        return 1, ["CMD_SYNC CS=NONE", f"ILLEGAL {ILL.hex()}: {why}, {where}", "CMD_SYNC CS=NONE"], []

    assert run(SYNC.hex(), ILL.hex(), SYNC.hex()) == wanted("entry 2")
    assert run("--dump", "-", given=SYNC + ILL + SYNC) == wanted("entry 1 at offset 0x10")
    assert run("--dump", "-", given=gzip.compress(SYNC + ILL + SYNC)) == wanted("entry 1 at offset 0x10")
    assert run(given=f"{SYNC.hex()}\n\n{ILL.hex()}\n{SYNC.hex()}".encode()) == wanted("line 3")
    status, lines, _ = run("--json", ILL.hex(), SYNC.hex())
    assert status == 1
    assert list(map(json.loads, lines)) == [
        {"raw": ILL.hex(), "illegal": why, "where": "entry 1"},
        {"raw": SYNC.hex(), "name": "CMD_SYNC", "fields": Command.of("CMD_SYNC").fields},
    ]


def test_a_command_without_raw_bytes_keeps_its_place():
    given = "\n".join(
        [
            ",".join(HEADER),
            f"0,0,D,2,2,0{10 * ','}",
            f"0,0,C,,2,0,SYNC,{9 * ','}"[:-1],
            f"0,0,C,,2,1,SYNC,{SYNC.hex()}{8 * ','}",
        ]
    ).encode()
    assert run("--trace", "-", given=given) == (0, ["no raw bytes: CMD_SYNC, line 3", "CMD_SYNC CS=NONE"], [])
    status, lines, _ = run("--trace", "-", "--json", given=given)
    assert (status, json.loads(lines[0])) == (0, {"raw": None, "name": "CMD_SYNC", "where": "line 3"})


@pytest.mark.parametrize("args", [[], ["-"], ["--dump", "-"], ["--trace", "-"]])
def test_a_closed_stdin_is_one_line_and_status_2(args):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "", sys.executable, "-c", PROGRAM, "decode", *args],
        capture_output=True,
        check=False,
        timeout=120,
    )
    said = b"smmu-lab: stdin: cannot be read: Bad file descriptor\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", said)


def test_a_broken_stream_is_status_2_after_what_came_before(tmp_path):
    assert run("--dump", "-", given=SYNC + b"1") == (
        2,
        ["CMD_SYNC CS=NONE"],
        ["smmu-lab: stdin: entry 1 at offset 0x10: the dump ends after 1 of 16 bytes"],
    )
    path = tmp_path / "short.csv"
    path.write_text(
        f"{','.join(HEADER)}\n0,0,D,2,2,0{10 * ','}\n0,0,C,,2,0,SYNC,{SYNC.hex()}{8 * ','}\n0,0,C,,2,0,SYNC,{9 * ','}\n"
    )
    assert run("--trace", str(path)) == (
        2,
        ["CMD_SYNC CS=NONE"],
        ["smmu-lab: short.csv: line 4: 17 is not valid: 16 columns"],
    )


def test_a_reader_that_leaves_ends_it_quietly():
    with smmu_lab("--dump", "/dev/zero") as running:
        assert running.stdout.readline().startswith(b"ILLEGAL ")
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 1


def test_a_queue_in_the_shell(tmp_path):
    path = tmp_path / "cmdq.bin"
    path.write_bytes(2 * ILL + 2 * SYNC)
    assert run("--dump", str(path), "--cons", "0x1000002", "--prod", "4") == (0, 2 * ["CMD_SYNC CS=NONE"], [])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dump", "-", "--trace", "x"], "decode: one of ENTRY, --trace and --dump"),
        (["--dump", "-", "--cons", "1"], "cons: --cons and --prod go together, with a --dump"),
        (["--prod", "1", "--cons", "1"], "cons, prod: --cons and --prod go together, with a --dump"),
        (["--dump", "-", "--prod", "1", "--cons", "x"], "cons: 'x' is not valid: an integer such as 19 or 0x1000003"),
        (["--dump", "none.bin"], "none.bin: cannot be read: No such file or directory"),
        (["--trace", ""], "trace '': unknown; one of"),
    ],
)
def test_what_cannot_be_decoded_is_one_line_and_status_2(args, message):
    status, lines, said = run(*args)
    assert (status, lines, len(said)) == (2, [], 1)
    assert said[0].startswith(f"smmu-lab: {message}")
