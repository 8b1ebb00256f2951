"""The reader of recorded guests, held to the recordings and to what another program counted in them."""

import csv
import gzip
import html.parser
import itertools
import json
import tracemalloc
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.arch import OPCODES, decode
from smmu_lab.scenario.bundled import FOLDER, BundledTrace, BundledTraces
from smmu_lab.scenario.trace import HEADER, TraceError, read_trace, traces

DATA = Path(__file__).parents[1] / "data"
FILES = sorted([*FOLDER.glob("*.csv.gz"), *(DATA / "traces").glob("*.csv.gz")])
SUMMARIES = {each["name"]: each for each in map(json.loads, (DATA / "trace_summary.jsonl").open())}
SYNC = OPCODES["CMD_SYNC"]

load = cache(read_trace)
shipped = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix(".csv.gz"))


def rows(path):
    with gzip.open(path, "rt") as file:
        yield from csv.DictReader(file)


def by_text(counts):
    return {str(value): count for value, count in counts.items()}


@shipped
def test_summary_equals_the_one_of_the_recorder(path):
    trace = load(path)
    ours, theirs = trace.summary(), SUMMARIES[trace.name]
    assert trace.vcpus == theirs["smp"]
    assert trace.log2size == 16
    assert len(trace.commands) == trace.summary("all")["commands"] == theirs["cmds_total"]
    names = {"doorbells": "doorbells", "commands": "cmds", "syncs": "sync", "ops": "ops"}
    names |= {"cons_reads": "cons_reads", "ringing_vcpus": "doorbell_cpus"}
    assert {key: ours[key] for key in names} == {key: theirs[name] for key, name in names.items()}
    assert by_text(ours["commands_per_doorbell_counts"]) == theirs["cmds_per_db"]
    assert by_text(ours["syncs_per_doorbell_counts"]) == theirs["sync_per_db"]
    assert by_text(ours["nonsync_per_sync"]) == theirs["nonsync_per_sync"]
    per_doorbell, pages = ours["commands_per_doorbell"], ours["pages_per_tlbi"]
    assert round(per_doorbell["mean"], 3) == theirs["cmds_per_db_mean"]
    assert [per_doorbell[key] for key in ("p50", "p99", "max")] == [
        theirs[key] for key in ("db_p50", "db_p99", "db_max")
    ]
    assert (round(pages["mean"], 2), pages["max"]) == (theirs["pages_per_tlbi_mean"], theirs["pages_max"])
    several = sum(count for syncs, count in theirs["sync_per_db"].items() if int(syncs) > 1)
    assert ours["share_of_doorbells_with_several_syncs"] == several / (theirs["doorbells"] or 1)
    json.dumps(ours)


@shipped
def test_every_command_has_its_raw_bytes_and_columns_hold_the_file(path):
    commands = load(path).commands
    recorded = [row for row in rows(path) if row["ev"] == "C"]
    assert [row["raw_hex"] for row in recorded] == [commands.raw16(i).hex() for i in range(len(commands))]
    for column in ("asid", "tg", "ttl", "leaf", "num_pages"):
        assert [int(row[column] or 0) for row in recorded] == list(getattr(commands, column))
    assert [int(row["addr"] or "0", 16) for row in recorded] == list(commands.addr)
    assert load(path).summary("all")["ops"] == Counter(row["op"] for row in recorded)


@shipped
def test_every_command_decodes_to_what_qemu_decoded(path):
    trace = load(path)
    c = trace.commands
    seen = set()
    for i in range(len(c)):
        key = (c.raw16(i), c.opcode[i], c.asid[i], c.addr[i], c.tg[i], c.ttl[i], c.leaf[i], c.num_pages[i])
        if key in seen:
            continue
        seen.add(key)
        command = decode(c.raw16(i))
        assert command.opcode == c.opcode[i]
        if command.name == "TLBI_NH_VA":
            fields = [command.fields[name] for name in ("asid", "va", "tg", "ttl", "leaf")]
            assert [*fields, command.pages] == list(key[2:])
        elif command.name == "TLBI_NH_ASID":
            assert command.fields["asid"] == c.asid[i]
        elif command.name == "CFGI_STE":
            assert command.fields["sid"] == c.addr[i]


@shipped
def test_publications_chain(path):
    trace = load(path)
    doorbells = trace.publications("all")
    assert [row["cpu"] for row in rows(path) if row["ev"] == "D"] == [str(each.vcpu) for each in doorbells]
    for before, after in itertools.pairwise(doorbells):
        assert after.cons == before.prod
        assert after.commands.start == before.commands.stop
    for each in doorbells:
        assert (each.prod - each.cons) % (2 << trace.log2size) == len(each.commands)
        assert all(trace.commands.doorbell[i] == each.doorbell for i in each.commands)
    assert doorbells[-1].commands.stop == len(trace.commands)
    assert len(trace.publications()) == SUMMARIES[trace.name]["doorbells"]


@shipped
def test_operations_conserve_commands_and_the_order_of_each_vcpu(path):
    trace = load(path)
    operations = trace.operations("all")
    assert sorted(operations.commands) == list(range(len(trace.commands)))
    assert len(operations) == trace.summary("all")["syncs"]
    for operation in operations:
        opcodes = [trace.commands.opcode[i] for i in operation.commands]
        assert opcodes.index(SYNC) == len(opcodes) - 1
    for vcpu in range(trace.vcpus):
        own = list(operations.of(vcpu))
        assert all(a.commands[-1] < b.commands[0] for a, b in itertools.pairwise(own))
    assert len(trace.operations()) == trace.summary()["syncs"]
    assert len(trace.operations().commands) == trace.summary()["commands"]


@shipped
def test_an_operation_that_its_vcpu_rang_for_is_not_inferred(path):
    trace = load(path)
    for operation in trace.operations("all"):
        begins = {trace.doorbells.first[trace.commands.doorbell[i]] for i in operation.commands}
        rang = begins & set(operation.commands)
        assert operation.inferred == (not rang)
        assert all(trace.doorbells.vcpu[trace.commands.doorbell[i]] == operation.vcpu for i in rang)


@shipped
def test_an_inferred_vcpu_reads_cons_before_it_rings_again(path):
    trace = load(path)
    after = {}  # vCPU -> doorbells, and the CONS reads after each
    for vcpu, doorbell in zip(trace.cons_reads.vcpu, trace.cons_reads.doorbell, strict=True):
        after.setdefault(vcpu, []).append(doorbell)
    for operation in trace.operations("all"):
        if operation.inferred:
            read = next(doorbell for doorbell in after[operation.vcpu] if doorbell >= operation.doorbell)
            between = trace.doorbells.vcpu[operation.doorbell : read + 1]
            assert operation.vcpu not in between


@shipped
def test_a_vcpu_has_at_most_one_operation_in_a_doorbell(path):
    operations = load(path).operations("all")
    assert max(Counter(zip(operations.vcpu, operations.doorbell, strict=True)).values()) == 1


@pytest.mark.parametrize(
    ("name", "pages"),
    [
        ("noril_nvme_dd_w1m_j4_strict_61", 128),
        ("noril_nvme_dd_r1m_j1_strict_61", 128),
        ("noril_nvme_fio_w128k_d8_j4_strict_61", 32),
        ("noril_nvme_fio_rw16k_d8_j4_strict_61", 4),
    ],
)
def test_every_unmap_without_range_invalidation_covers_its_request(name, pages):
    """Requests of 512 KiB, 128 KiB and 16 KiB, whichever batches of other vCPUs stand between theirs."""
    trace = load(next(path for path in FILES if path.name.startswith(name)))
    for operation in trace.operations():
        *tlbis, _ = operation.commands
        first = trace.commands.addr[tlbis[0]]
        assert [trace.commands.addr[i] for i in tlbis] == [first + 4096 * page for page in range(pages)]


@pytest.mark.parametrize("name", ["nvme_dd_r4k_j4_strict_61", "noril_nvme_fio_rw16k_d8_j4_strict_61"])
def test_inferred_vcpus_agree_with_the_reuse_of_addresses(name):
    """Linux reuses an IOVA on the CPU that freed it: evidence that the rule does not look at."""
    trace = load(FOLDER / f"{name}.csv.gz")
    last = {}
    agrees = Counter()
    for operation in trace.operations():
        address = trace.commands.addr[operation.commands[0]]
        if operation.inferred and address in last:
            agrees[last[address] == operation.vcpu] += 1
        last[address] = operation.vcpu
    assert agrees[True] >= 0.94 * agrees.total() > 100


def test_the_driver_issues_full_batches_of_64_and_the_rest_with_the_sync():
    trace = load(FOLDER / "noril_nvme_dd_r1m_j1_strict_61.csv.gz")
    assert Counter(len(each.commands) for each in trace.publications()) == {64: 128, 65: 128}
    assert {len(each.commands) for each in trace.operations()} == {129}


def test_bundled_traces_are_what_their_index_says():
    assert {f"{name}.csv.gz" for name in traces()} == {path.name for path in FOLDER.glob("*.gz")}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 1_000_000
    for name, entry in traces().items():
        trace = load(FOLDER / f"{name}.csv.gz")
        assert str(read_trace(name)) == str(trace)
        summary = trace.summary()
        assert (entry.vcpus, entry.doorbells, entry.commands) == tuple(
            summary[key] for key in ("vcpus", "doorbells", "commands")
        )
        assert entry.mode == ("lazy" if "TLBI_NH_ASID" in summary["ops"] else "strict")
        assert entry.ril != name.startswith("noril_")
        assert entry.kernel == SUMMARIES[name]["kernel"].rsplit(".", 1)[0]
    assert {(each.mode, each.ril, each.vcpus) for each in traces().values()} > {
        ("strict", False, 4),
        ("strict", True, 4),
        ("lazy", True, 2),
    }


def test_traces_print_as_a_table():
    head, *lines = str(traces()).splitlines()
    assert head.split() == [
        "name",
        "device",
        "workload",
        "vCPUs",
        "mode",
        "RIL",
        "Linux",
        "commands",
    ]
    assert [line.split()[0] for line in lines] == list(traces())


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags |= {tag, *(name for name, _ in attrs)}


SHEET = {"table", "thead", "tbody", "tr", "th", "td", "style"}


def test_markup_in_names_is_escaped(tmp_path):
    markup = "<script>alert(1)<img src=x onerror=alert(1)>"
    (tmp_path / f"{markup}.csv").write_text(SMALL)
    shown = read_trace(tmp_path / f"{markup}.csv")._repr_html_()
    assert Tags(shown).tags == SHEET
    entry = BundledTrace(markup, markup, markup, 1, markup, True, markup, 1, 2)
    shown = BundledTraces({markup: entry})._repr_html_()
    assert Tags(shown).tags == SHEET


def test_a_trace_shows_itself_in_one_line():
    assert repr(load(FOLDER / "nvme_dd_r1m_j1_strict_61.csv.gz")) == (
        "<Trace nvme_dd_r1m_j1_strict_61: 2 vCPUs, 165 doorbells, 319 commands, 161 CONS reads>"
    )


def test_columns_are_compact():
    path = FOLDER / "noril_nvme_dd_r1m_j1_strict_61.csv.gz"
    tracemalloc.start()
    try:
        trace = read_trace(path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 80 * len(trace.commands)
    assert peak < held + 500_000


# A queue of 4 entries: a doorbell of two commands, then one of four that wraps.
SMALL = """\
time_ns,cpu,ev,n_cmds,prod,cons,op,raw_hex,asid,addr,tg,ttl,leaf,num_pages,n_split,val
0,0,r,,,,,,,0x4,,,,,,0x2730010
1000,0,W,,,,,,,0x90,,,,,,0x4000000040000002
1000,0,D,0,0,,,,,,,,,,,
1000,0,W,,,,,,,0x9c,,,,,,0x0
2000,-1,M,,,,wl_begin,,,,,,,,,
3000,1,D,2,2,0,,,,,,,,,,
3000,1,C,,2,0,TLBI_NH_VA,12000000000003000100f0ff00000000,3,0xfff00000,0,0,1,1,1,
4000,1,C,,2,1,SYNC,4620c00f000000000000000000000000,,,,,,,,
5000,1,R,,,2,,,,,,,,,,
6000,0,D,4,6,2,,,,,,,,,,
6000,0,C,,6,2,TLBI_NH_ASID,11000000000001000000000000000000,1,,,,,,,
6000,0,C,,6,3,SYNC,,,,,,,,,
6000,0,C,,6,4,CFGI_STE,03000000080000000100000000000000,,0x8,,,,0,0,
6000,0,C,,6,5,SYNC,4620c00f000000000000000000000000,,,,,,,,
7000,0,R,,,6,,,,,,,,,,
7000,1,R,,,6,,,,,,,,,,
8000,-1,M,,,,wl_end,,,,,,,,,
"""


@pytest.fixture
def small(tmp_path):
    def read(text):
        path = tmp_path / "nvme.csv"
        path.write_text(text)
        return read_trace(path)

    return read


def test_a_small_trace_reads_in_full(small):
    trace = small(SMALL)
    assert (trace.log2size, trace.vcpus, trace.marks) == (2, 2, {"wl_begin": 2000, "wl_end": 8000})
    assert [(each.vcpu, list(each.commands)) for each in trace.publications()] == [
        (1, [0, 1]),
        (0, [2, 3, 4, 5]),
    ]
    assert [(each.vcpu, list(each.commands), each.inferred) for each in trace.operations()] == [
        (1, [0, 1], False),
        (0, [2, 3], False),
        (1, [4, 5], True),
    ]
    assert trace.commands.raw16(3) is None


def test_log2size_is_capped_by_idr1(small):
    huge = "1000,0,W,,,,,,,0x90,,,,,,0x400000004000001f"
    lines = SMALL.splitlines()
    assert small("\n".join([lines[0], huge])).log2size == 19
    assert small("\n".join([lines[0], "0,0,r,,,,,,,0x4,,,,,,0x2010010", huge])).log2size == 16
    assert small("\n".join([lines[0], "0,0,r,,,,,,,0x4,,,,,,0x2010010"])).log2size == 16


def test_a_recording_without_any_access_is_refused(small):
    with pytest.raises(TraceError, match="no vCPU accesses the SMMU"):
        small(SMALL.splitlines()[0])


def test_range_invalidation_is_read_from_idr3_or_else_seen():
    assert load(FOLDER / "nvme_dd_r1m_j1_strict_61.csv.gz").ril
    assert not load(FOLDER / "noril_nvme_dd_r1m_j1_strict_61.csv.gz").ril
    assert all(read_trace(name).ril == entry.ril for name, entry in traces().items())


@pytest.mark.parametrize(
    ("line", "old", "new", "column", "valid"),
    [
        (8, ",C,", ",Q,", "ev", "one of D, C, R, W, r, M, X"),
        (8, ",C,", ",R,", "ev", "a C row, as the doorbell above has 2 more"),
        (7, "3000", "3.5", "time_ns", "an integer from 0 to 1000000000000000000"),
        (7, "3000", "1999", "time_ns", "at least 2000, the time of the row above"),
        (7, ",1,D", ",-1,D", "cpu", "an integer from 0 to 511"),
        (7, ",1,D", ",512,D", "cpu", "an integer from 0 to 511"),
        (8, ",1,C", ",0,C", "cpu", "1, the vCPU of the doorbell"),
        (7, ",2,2,0,", ",1_0,2,0,", "n_cmds", "an integer from 0 to 4"),
        (7, ",2,2,0,", ",1,2,0,", "n_cmds", "2, as far as prod is from cons"),
        (11, ",4,6,2,", ",4,5,1,", "cons", "2, where the doorbell before ended"),
        (11, ",4,6,2,", ",4,8,4,", "prod", "an integer from 0 to 7"),
        (9, ",2,1,", ",2,2,", "cons", "1, the next slot"),
        (9, ",2,1,", ",3,1,", "prod", "2, the prod of the doorbell"),
        (9, "SYNC", "SINK", "op", "a command as QEMU names it"),
        (8, "12000000000003000100f0ff00000000", "46zz", "raw_hex", "32 hexadecimal digits"),
        (8, ",12000", ",46000", "raw_hex", "12 first, the opcode of TLBI_NH_VA"),
        (8, "0xfff00000", "fff00000", "addr", "0x and 1 to 16 hexadecimal digits"),
        (8, ",3,0xfff", ",,0xfff", "asid", "an integer from -1 to 65535"),
        (9, ",,,,,,,,", ",7,,,,,,,", "asid", "empty in the C row of a SYNC"),
        (10, ",R,,,2", ",R,2,,2", "n_cmds", "empty in the R row"),
        (10, ",R,,,2", ",R,,,1", "cons", "2, where the doorbell before ended"),
        (18, "wl_end", "<b>", "op", "boot_done, wl_begin or wl_end"),
    ],
)
def test_an_error_names_file_line_column_value_and_what_is_valid(small, line, old, new, column, valid):
    lines = SMALL.splitlines()
    lines[line - 1] = changed = lines[line - 1].replace(old, new, 1)
    value = changed.split(",")[HEADER.index(column)]
    with pytest.raises(TraceError) as error:
        small("\n".join(lines))
    assert str(error.value) == f"nvme.csv: line {line}, column {column}: {value!r} is not valid: {valid}"


def test_an_error_reads_like_this(small):
    with pytest.raises(TraceError) as error:
        small(SMALL.replace("12000000000003000100f0ff00000000", "46zz"))
    assert str(error.value) == "nvme.csv: line 8, column raw_hex: '46zz' is not valid: 32 hexadecimal digits"


@pytest.mark.parametrize(
    ("line", "old", "new", "message"),
    [
        (1, SMALL.splitlines()[0], "time,cpu", f"line 1: 'time,cpu' is not valid: {','.join(HEADER)}"),
        (8, ",1,1,", ",1,", "line 8: 15 is not valid: 16 columns"),
    ],
)
def test_an_error_of_a_whole_line_names_the_line(small, line, old, new, message):
    lines = SMALL.splitlines()
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    with pytest.raises(TraceError) as error:
        small("\n".join(lines))
    assert str(error.value) == f"nvme.csv: {message}"


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        (9, "line 9, column ev: 'R' is not valid: a C row, as the doorbell above has 1 more"),
        (7, "line 7, column ev: 'C' is not valid: no C row, as the doorbell above has no more"),
        (8, "line 8, column cons: '1' is not valid: 0, the next slot"),
    ],
)
def test_a_missing_row_is_noticed_where_it_is_missed(small, dropped, message):
    lines = SMALL.splitlines()
    del lines[dropped - 1]
    with pytest.raises(TraceError) as error:
        small("\n".join(lines))
    assert str(error.value) == f"nvme.csv: {message}"


def test_a_trace_that_ends_within_a_doorbell_is_refused(small):
    with pytest.raises(TraceError) as error:
        small("\n".join(SMALL.splitlines()[:8]))
    assert str(error.value) == (
        "nvme.csv: line 9, column ev: '' is not valid: a C row, as the doorbell above has 1 more"
    )


PACKED = gzip.compress(SMALL.encode(), mtime=0)
DAMAGED = (
    "damaged, or not a trace: UTF-8 text is expected (gzip-compressed in a .gz), "
    "at most 512 bytes a line and 20,000,000 lines"
)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (PACKED[:-9], 1),
        (PACKED[: len(PACKED) // 2], 1),
        (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], 19),
        (b"not gzip at all", 1),
        (gzip.compress(SMALL.encode().replace(b"SYNC", b"\xff\xfe\xfd\xfc", 1), mtime=0), 9),
        (gzip.compress(bytes(50_000_000)), 1),
        (gzip.compress(SMALL.encode() + b"," * 600), 19),
    ],
    ids=["no trailer", "half", "checksum", "garbage", "not UTF-8", "bomb", "long line"],
)
def test_a_damaged_file_gives_one_clear_error(tmp_path, content, line):
    path = tmp_path / "nvme.csv.gz"
    path.write_bytes(content)
    with pytest.raises(TraceError) as error:
        read_trace(path)
    if line > 1:
        assert str(error.value) == f"nvme.csv.gz: line {line}: {DAMAGED}"
    else:
        assert str(error.value).endswith(DAMAGED)


def test_a_bomb_costs_no_memory(tmp_path):
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(TraceError):
            read_trace(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "nvme_dd_r4k_j4_strict",
            "trace 'nvme_dd_r4k_j4_strict': unknown; did you mean 'nvme_dd_r4k_j4_strict_61'?"
            "; the path of a file ends in .csv or .gz, or has a /",
        ),
        ("NOWHERE.CSV", "NOWHERE.CSV: cannot be read: No such file or directory"),
        ("/nowhere/x", "/nowhere/x: cannot be read: No such file or directory"),
        ("nowhere/x.csv.gz", "nowhere/x.csv.gz: cannot be read: No such file or directory"),
    ],
)
def test_a_source_that_is_not_there(source, message):
    with pytest.raises(TraceError) as error:
        read_trace(source)
    assert str(error.value) == message


def test_an_unknown_section_is_refused():
    with pytest.raises(ValueError, match="section: 'boot' is not valid: 'workload' or 'all'"):
        load(FILES[0]).summary("boot")


@given(
    packed=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=3)), min_size=1, max_size=4),
)
def test_random_damage_is_a_trace_or_a_trace_error(tmp_path_factory, packed, changes):
    content = bytearray(PACKED if packed else SMALL.encode())
    for position, patch in changes:
        start = position % len(content)
        content[start : start + 1] = patch
    path = tmp_path_factory.getbasetemp() / ("damaged.csv.gz" if packed else "damaged.csv")
    path.write_bytes(content)
    try:
        trace = read_trace(path)
    except TraceError as error:
        said = str(error)
    else:
        said = str(trace)
        assert len(trace.operations("all").commands) == len(trace.commands)
        trace.summary()
    assert len(said.splitlines()) == 1
