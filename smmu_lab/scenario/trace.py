"""The reader of recorded guests: a file of events, streamed and checked row by row.

One row per event, in order: ``D`` doorbell, ``C`` a command of the doorbell above, ``R`` read of CMDQ_CONS,
``W`` and ``r`` other register accesses, ``X`` interrupts and errors, ``M`` marks of the guest. A column that
does not apply is empty. ``C`` rows follow their doorbell; only ``M`` and ``X`` rows may stand between them.
A recording in which a doorbell consumed less than it published (command error, disabled queue) is refused.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import attrs

from smmu_lab.scenario.bundled import FOLDER, traces
from smmu_lab.scenario.dump import Entry, open_file
from smmu_lab.scenario.fields import InvalidInput, invalid, unknown
from smmu_lab.scenario.recorded import QEMU_OPCODES, Commands, ConsReads, Doorbells, Trace

__all__ = ["HEADER", "Trace", "TraceError", "read_entries", "read_trace", "traces"]

HEADER = (
    *("time_ns", "cpu", "ev", "n_cmds", "prod", "cons", "op", "raw_hex"),
    *("asid", "addr", "tg", "ttl", "leaf", "num_pages", "n_split", "val"),
)

_LONGEST_LINE = 512
_FORGET = 100  # lines after which a stream empties its columns
_MOST_LINES = 20_000_000
_MOST_VCPUS = 512  # of QEMU's virt machine
_LAST_TIME = 10**18
_LOG2SIZE_MAX = 19  # of IDR1.CMDQS
_LOG2SIZE_OF_LINUX = 16  # with pages of 4 KiB

_IDR1, _IDR3, _CMDQ_BASE, _CMDQ_CONS = 0x04, 0x0C, 0x90, 0x9C

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]{1,16}")
_RAW = re.compile(r"[0-9a-fA-F]{32}")

_SPELLED = {"SYNC": "CMD_SYNC", "PREFETCH_CONFIG": "PREFETCH_CFG"}  # by QEMU, by the specification

_USED = {
    "D": ("n_cmds", "prod", "cons"),
    "R": ("cons",),
    "W": ("addr", "val"),
    "r": ("addr", "val"),
    "M": ("op",),
    "X": ("op", "val"),
}
_USED_BY_COMMAND: dict[str, tuple[str, ...]] = dict.fromkeys(QEMU_OPCODES, ("prod", "cons", "op", "raw_hex"))
for _name in QEMU_OPCODES:
    if _name.endswith("_ASID"):
        _USED_BY_COMMAND[_name] += ("asid",)
    if _name.startswith("TLBI_") and _name.endswith(("_VA", "_VAA", "_IPA")):
        _USED_BY_COMMAND[_name] += ("asid", "addr", "tg", "ttl", "leaf", "num_pages", "n_split")
_USED_BY_COMMAND["CFGI_STE"] += ("addr", "num_pages", "n_split")


def _others(used: tuple[str, ...]) -> itemgetter[Any]:
    """Pick the columns that must be empty."""
    return itemgetter(*(i for i, column in enumerate(HEADER) if i > 2 and column not in used))


_EMPTY = {event: _others(used) for event, used in _USED.items()}
_EMPTY_BY_COMMAND = {name: _others(used) for name, used in _USED_BY_COMMAND.items()}


class TraceError(InvalidInput):
    """What is wrong with a trace: one line with file, line, column, value and what is valid."""


def read_trace(source: str | os.PathLike[str]) -> Trace:
    """Read a recorded guest and check every row.

    Args:
        source: the name of a bundled trace (see `traces`), or the path of a file: it has a ``/``, or ends in
            ``.csv`` or ``.gz``.

    Raises:
        TraceError: the file cannot be read, or a row is not valid.

    >>> print(read_trace("nvme_dd_r1m_j1_strict_61"))
    nvme_dd_r1m_j1_strict_61: 2 vCPUs, 165 doorbells, 319 commands, 161 CONS reads
    """
    path = _path(source)
    with open_file(path, TraceError) as file:
        return _Reader(path).read(file)


def read_entries(source: str | os.PathLike[str]) -> Iterator[Entry]:
    """The recorded queue entries of a guest, one by one: a trace of any length takes the same memory.

    A command without raw bytes is an entry of no bytes, and has its name.

    Args:
        source: as `read_trace` takes it, or ``-`` for stdin.

    Raises:
        TraceError: as `read_trace`, after the entries of the rows before.

    >>> next(read_entries("nvme_dd_r1m_j1_strict_61")).hex()
    '04000000000000001f00000000000000'
    """
    path = Path("stdin") if source == "-" else _path(source)
    with open_file("-" if source == "-" else path, TraceError) as file:
        yield from _Reader(path).entries(file)


def _path(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    if path.suffix.lower() in (".csv", ".gz") or os.sep in str(source):
        return path
    if str(source) not in traces():
        problem = unknown(f"trace {str(source)!r}", str(source), traces())
        raise TraceError([f"{problem}; the path of a file ends in .csv or .gz, or has a {os.sep}"])
    return FOLDER / f"{source}.csv.gz"


class _Reader:
    """Reads one file. Knows where the queue stands, so each row is held to the rows before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        self.time = 0
        self.vcpus = 0
        self.log2size = _LOG2SIZE_OF_LINUX
        self.log2size_max = _LOG2SIZE_MAX
        self.ril: bool | None = None
        self.cons: int | None = None  # next slot; None: the guest has just set the queue up
        self.left = 0  # commands that the last doorbell still owes
        self.marks: dict[str, int] = {}
        self.doorbells = Doorbells()
        self.commands = Commands()
        self.cons_reads = ConsReads()
        self.events: dict[str, Callable[[list[str]], None]] = {
            "D": self.doorbell,
            "C": self.command,
            "R": self.cons_read,
            "W": self.register,
            "r": self.register,
            "M": self.mark,
            "X": lambda row: None,
        }

    def lines(self, file: BinaryIO) -> Iterator[str]:
        try:
            for self.line in range(1, _MOST_LINES):
                text = file.readline(_LONGEST_LINE + 1)
                if not text:
                    return
                if len(text) > _LONGEST_LINE:
                    break
                yield text.decode().rstrip("\r\n")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError):
            pass
        raise TraceError(
            [
                f"{self.path.name}: line {self.line}: damaged, or not a trace: UTF-8 text is expected "
                f"(gzip-compressed in a .gz), at most {_LONGEST_LINE} bytes a line and {_MOST_LINES:,} lines"
            ]
        )

    def rows(self, file: BinaryIO) -> Iterator[list[str]]:
        """All rows of a file, each once it is checked and in the columns."""
        lines = self.lines(file)
        if (header := next(lines, "")) != ",".join(HEADER):
            self.fail("", header, ",".join(HEADER))
        for line in lines:
            row = line.split(",")
            self.row(row)
            yield row
        if self.left:
            self.fail("ev", "", f"a C row, as the doorbell above has {self.left} more")
        if not self.vcpus:
            raise TraceError([f"{self.path.name}: no vCPU accesses the SMMU in it"])

    def entries(self, file: BinaryIO) -> Iterator[Entry]:
        for row in self.rows(file):
            if row[2] == "C":
                name = "" if row[7] else _SPELLED.get(row[6], row[6])
                yield Entry(bytes.fromhex(row[7]), f"line {self.line}", name)
            if self.line % _FORGET == 0:
                self.forget()

    def forget(self) -> None:
        """Empty the columns, but for the last doorbell, to which the next rows are held."""
        self.doorbells = Doorbells(*(column[-1:] for column in attrs.astuple(self.doorbells)))
        self.commands, self.cons_reads = Commands(), ConsReads()

    def read(self, file: BinaryIO) -> Trace:
        for _ in self.rows(file):
            pass
        name = self.path.name.removesuffix(".gz").removesuffix(".csv")
        return Trace(
            name=name,
            path=str(self.path),
            vcpus=self.vcpus,
            log2size=self.log2size,
            ril=any(self.commands.tg) if self.ril is None else self.ril,
            marks=self.marks,
            doorbells=self.doorbells,
            commands=self.commands,
            cons_reads=self.cons_reads,
        )

    def row(self, row: list[str]) -> None:
        if len(row) != len(HEADER):
            self.fail("", len(row), f"{len(HEADER)} columns")
        event = row[2]
        if event not in self.events:
            self.fail("ev", event, f"one of {', '.join(self.events)}")
        if self.left and event not in "CMX":
            self.fail("ev", event, f"a C row, as the doorbell above has {self.left} more")
        if event == "C" and row[6] not in QEMU_OPCODES:
            self.fail("op", row[6], "a command as QEMU names it")
        empty = _EMPTY_BY_COMMAND[row[6]] if event == "C" else _EMPTY[event]
        if any(empty(row)):
            column = next(i for i in empty(range(len(HEADER))) if row[i])
            self.fail(
                HEADER[column],
                row[column],
                f"empty in the {event} row{f' of a {row[6]}' if event == 'C' else ''}",
            )
        time = self.integer(row, 0, 0, _LAST_TIME)
        if time < self.time:
            self.fail("time_ns", row[0], f"at least {self.time}, the time of the row above")
        self.time = time
        vcpu = self.integer(row, 1, -1 if event in "MX" else 0, _MOST_VCPUS - 1)
        self.vcpus = max(self.vcpus, vcpu + 1)
        self.events[event](row)

    def doorbell(self, row: list[str]) -> None:
        n = self.integer(row, 3, 0, 1 << self.log2size)
        prod = self.index(row, 4)
        cons = self.index(row, 5) if n or row[5] else prod
        if (prod - cons) % (2 << self.log2size) != n:
            self.fail("n_cmds", row[3], f"{(prod - cons) % (2 << self.log2size)}, as far as prod is from cons")
        if n:
            self.expect(row, 5, self.cons, "where the doorbell before ended")
            self.cons = cons
        self.left = n
        d = self.doorbells
        d.time_ns.append(self.time)
        d.vcpu.append(int(row[1]))
        d.n.append(n)
        d.prod.append(prod)
        d.cons.append(cons)
        d.first.append(len(self.commands))

    def command(self, row: list[str]) -> None:
        if not self.left:
            self.fail("ev", row[2], "no C row, as the doorbell above has no more")
        opcode, raw = QEMU_OPCODES[row[6]], row[7]
        self.expect(row, 1, self.doorbells.vcpu[-1], "the vCPU of the doorbell")
        self.expect(row, 4, self.doorbells.prod[-1], "the prod of the doorbell")
        self.expect(row, 5, self.cons, "the next slot")
        if raw and not _RAW.fullmatch(raw):
            self.fail("raw_hex", raw, "32 hexadecimal digits")
        if raw and int(raw[:2], 16) != opcode:
            self.fail("raw_hex", raw, f"{opcode:02x} first, the opcode of {row[6]}")
        c = self.commands
        c.opcode.append(opcode)
        c.doorbell.append(len(self.doorbells) - 1)
        c.recorded.append(bool(raw))
        c.raw.extend(bytes.fromhex(raw or "00" * 16))
        used = _USED_BY_COMMAND[row[6]]
        c.asid.append(self.integer(row, 8, -1, 0xFFFF) if "asid" in used else 0)
        c.addr.append(self.hexadecimal(row, 9) if "addr" in used else 0)
        c.tg.append(self.integer(row, 10, 0, 3) if "tg" in used else 0)
        c.ttl.append(self.integer(row, 11, 0, 3) if "tg" in used else 0)
        c.leaf.append(self.integer(row, 12, 0, 1) if "tg" in used else 0)
        c.num_pages.append(self.integer(row, 13, 0, 1 << 36) if "num_pages" in used else 0)
        if "n_split" in used:
            self.integer(row, 14, 0, 2**63 - 1)
        self.left -= 1
        self.cons = (self.doorbells.prod[-1] - self.left) % (2 << self.log2size)

    def cons_read(self, row: list[str]) -> None:
        cons = self.integer(row, 5, 0, 2**32 - 1)
        self.expect(row, 5, self.cons, "where the doorbell before ended")
        r = self.cons_reads
        r.time_ns.append(self.time)
        r.vcpu.append(int(row[1]))
        r.cons.append(cons)
        r.doorbell.append(len(self.doorbells) - 1)

    def register(self, row: list[str]) -> None:
        offset, value = self.hexadecimal(row, 9), self.hexadecimal(row, 15)
        if row[2] == "r" and offset == _IDR1:
            self.log2size_max = min(value >> 21 & 31, _LOG2SIZE_MAX)
        elif row[2] == "r" and offset == _IDR3:
            self.ril = bool(value >> 10 & 1)
        elif row[2] == "W" and offset == _CMDQ_BASE:
            self.log2size = min(value & 31, self.log2size_max)
            self.cons = None
        elif row[2] == "W" and offset == _CMDQ_CONS:
            self.cons = None

    def mark(self, row: list[str]) -> None:
        if row[6] not in ("boot_done", "wl_begin", "wl_end"):
            self.fail("op", row[6], "boot_done, wl_begin or wl_end")
        self.marks[row[6]] = self.time

    def integer(self, row: list[str], column: int, low: int, high: int) -> int:
        if _INTEGER.fullmatch(row[column]) and low <= (value := int(row[column])) <= high:
            return value
        return self.fail(HEADER[column], row[column], f"an integer from {low} to {high}")

    def index(self, row: list[str], column: int) -> int:
        """An index into the queue, with its wrap bit."""
        return self.integer(row, column, 0, (2 << self.log2size) - 1)

    def hexadecimal(self, row: list[str], column: int) -> int:
        if _HEXADECIMAL.fullmatch(row[column]):
            return int(row[column], 16)
        return self.fail(HEADER[column], row[column], "0x and 1 to 16 hexadecimal digits")

    def expect(self, row: list[str], column: int, value: int | None, meaning: str) -> None:
        if value is not None and row[column] != str(value):
            self.fail(HEADER[column], row[column], f"{value}, {meaning}")

    def fail(self, column: str, value: object, valid: str) -> NoReturn:
        where = f"{self.path.name}: line {self.line}" + (f", column {column}" if column else "")
        raise TraceError([invalid(where, value, valid)])
