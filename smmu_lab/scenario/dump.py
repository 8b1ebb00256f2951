"""Entries of a command queue, read one by one: hexadecimal lines, dumps of memory, and a queue between two pointers.

What stands in an entry is not looked at: beyond PROD a queue holds whatever was there before.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from smmu_lab.arch import FIELDS, ILLEGAL, Command, Features, IllegalCommand, Queue, decode
from smmu_lab.scenario.fields import InvalidInput, invalid

_ENTRY = 16
_LOG2SIZE_MAX = 19  # of IDR1.CMDQS
_LONGEST_LINE = 256
_CONS_ERR_SHIFT = 24  # of CMDQ_CONS.ERR
_GZIP = b"\x1f\x8b\x08"
_PREFIX = re.compile(r"(?<!\S)0x")
_TWO_WORDS = re.compile(r"\s*0x([0-9a-fA-F]{16})\s+0x([0-9a-fA-F]{16})\s*")

# All that a command can ask for, but no RIL: with it, some ranges are reserved.
_ABLE = Features.from_idr(idr0=0xFFFFFFFF, idr1=0, idr3=0, idr5=0xFFFFFFFF)
_RULES = {name: [rule for rule in ILLEGAL if name in rule.commands] for name in FIELDS}


class Entry(bytes):
    """The bytes of an entry, and where it stood: a line, a slot, or the number of an argument.

    Attributes:
        where: the place, in words.
        name: of a command that a trace has without its bytes, which are then none.
    """

    where: str
    name: str

    def __new__(cls, raw: bytes, where: str, name: str = "") -> Entry:
        """`raw`, with its place and its name."""
        entry = super().__new__(cls, raw)
        entry.where, entry.name = where, name
        return entry


def read_command(raw: bytes) -> Command:
    """The command in an entry, if any SMMU takes it on a Non-secure queue (Arm IHI 0070 sections 4.1 to 4.7).

    What is legal with some feature only is taken as legal.

    Raises:
        IllegalCommand: each SMMU stops there with CERROR_ILL.

    >>> read_command(bytes(Command.of("CMD_SYNC", cs=3)))
    Traceback (most recent call last):
        ...
    smmu_lab.arch.commands.IllegalCommand: CMD_SYNC: CS = 3 is reserved (CERROR_ILL)
    """
    command = decode(raw)
    for rule in _RULES[command.name]:
        if rule.applies(command.dw0, command, _ABLE):
            raise IllegalCommand(f"{command.name}: {rule.reason} (CERROR_ILL)")
    return command


def read_hex(text: str, where: str = "entry") -> Entry:
    """One entry as 32 hexadecimal digits in the order of memory, or as two numbers of 64 bits, the lower word first.

    A number is ``0x`` and 16 digits. Else ``_``, spaces, and ``0x`` at the start of a group do not count.

    Args:
        text: the digits.
        where: what the message calls it.

    Raises:
        InvalidInput: anything else; the message has the first character that is no digit, or the number of digits.

    >>> read_hex("4620c00f 00000000_00000000_00000000").hex()
    '4620c00f000000000000000000000000'
    >>> read_hex("0x0000010000000003 0x0000000000000001").hex()
    '03000000000100000100000000000000'
    >>> read_hex("4620c0of")
    Traceback (most recent call last):
        ...
    smmu_lab.scenario.fields.InvalidInput: entry: '4620c0of' is not valid: 32 hexadecimal digits (column 7 is 'o')
    """
    if words := _TWO_WORDS.fullmatch(text):
        return Entry(b"".join(bytes.fromhex(word)[::-1] for word in words.groups()), where)
    digits = "".join(_PREFIX.sub("", text).replace("_", "").split())
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if len(raw) == _ENTRY:
        return Entry(raw, where)
    shown = _PREFIX.sub("00", text)
    strange = (i for i, c in enumerate(shown) if c not in "0123456789abcdefABCDEF_" and not c.isspace())
    column = next(strange, None)
    why = f"there are {len(digits)}" if column is None else f"column {column + 1} is {text[column]!r}"
    raise InvalidInput([f"{invalid(where, text.strip(), f'{2 * _ENTRY} hexadecimal digits')} ({why})"])


def read_hex_lines(file: BinaryIO) -> Iterator[Entry]:
    """The entry in each line, as `read_hex` takes it; an empty line is passed over.

    Raises:
        InvalidInput: a line that is no entry, or is longer than 256 bytes, or cannot be read.
    """
    number = 1
    while line := _read(file.readline, _LONGEST_LINE + 1, where := f"line {number}"):
        text = line.decode(errors="backslashreplace")
        if len(line) > _LONGEST_LINE:
            raise InvalidInput([invalid(where, text, f"{2 * _ENTRY} hexadecimal digits in {_LONGEST_LINE} bytes")])
        if text.strip():
            yield read_hex(text, where)
        number += 1


@contextmanager
def open_file(path: str | os.PathLike[str], error: type[InvalidInput] = InvalidInput) -> Iterator[BinaryIO]:
    """Open a file (``-``: stdin) to read its bytes, decompressed if it is one of gzip, by its start or by its name.

    Raises:
        InvalidInput: it cannot be opened, or should be a gzip file and is empty; `error` chooses a subclass.
    """
    name, stdin = ("stdin", True) if path == "-" else (path, False)
    packed = Path(path).suffix.lower() == ".gz"
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(0 if stdin else path, "rb", closefd=not stdin))
            start = file.peek(len(_GZIP))
        except (OSError, ValueError) as why:
            raise error([f"{name}: cannot be read: {getattr(why, 'strerror', why)}"]) from None
        if packed and not start:
            raise error([f"{name}: cannot be read: it is empty, and no gzip file"])
        packed |= start.startswith(_GZIP)
        yield cast(BinaryIO, stack.enter_context(gzip.open(file))) if packed else file


def read_dump(file: BinaryIO, name: str = "dump") -> Iterator[Entry]:
    """The entries of a dump, 16 bytes each, back to back, as they arrive.

    Args:
        file: the dump, buffered: a read of 16 bytes gives fewer at its end only.
        name: what messages call it.

    Raises:
        InvalidInput: the dump ends within an entry, or cannot be read.

    >>> from io import BytesIO
    >>> [raw[0] for raw in read_dump(BytesIO(bytes([1] * 16 + [2] * 16)))]
    [1, 2]
    """
    number = 0
    while raw := _read(file.read, _ENTRY, f"{name}: {(where := _place(number))}"):
        yield _whole(raw, name, where)
        number += 1


def read_queue(
    file: BinaryIO, name: str = "dump", *, cons: int, prod: int, log2size: int | None = None
) -> Iterator[Entry]:
    """The entries that are in a queue, from CONS to the last before PROD, out of a dump of its memory.

    Args:
        file: the dump, from slot 0 on; what follows the queue is not read.
        name: what messages call it.
        cons: CMDQ_CONS as the register has it, wrap bit included; ERR does not count.
        prod: CMDQ_PROD, wrap bit included.
        log2size: log2 of the entries of the queue; by default the queue is all of the dump.

    Raises:
        InvalidInput: the dump ends before PROD or cannot be read, or no queue has such a size or such pointers.

    >>> from io import BytesIO
    >>> memory = bytes([0] * 16 + [1] * 16 + [2] * 16 + [3] * 16)
    >>> [raw[0] for raw in read_queue(BytesIO(memory), cons=0x0100_0003, prod=0x5)]
    [3, 0]
    """
    most = _LOG2SIZE_MAX if log2size is None else log2size
    problems = [
        f"{register}: {value:#x} is not valid: 0 to 0xffffffff"
        for register, value in (("cons", cons), ("prod", prod))
        if not 0 <= value < 1 << 32
    ]
    if not 0 <= most <= _LOG2SIZE_MAX:
        problems.append(invalid("log2size", log2size, f"0 to {_LOG2SIZE_MAX}"))
    if problems:
        raise InvalidInput(problems)
    memory = _read(file.read, (_ENTRY << most) + (log2size is None), name)
    entries = len(memory) / _ENTRY
    if log2size is None:
        log2size = max(0, int(entries).bit_length() - 1)
        if entries != 1 << log2size:
            valid = f"16 bytes times a power of two, up to 2^{_LOG2SIZE_MAX}: else the queue's log2size is needed"
            size = f"{len(memory)}" if len(memory) <= _ENTRY << most else f"more than {_ENTRY << most}"
            raise InvalidInput([f"{name}: {size} bytes are not valid: {valid}"])
    queue = Queue(log2size)
    beyond = ((1 << _CONS_ERR_SHIFT) - 1) & ~queue.mask
    problems = [
        f"{register}: {value:#x} is not valid: up to {queue.mask:#x}{but}, as log2size is {log2size}"
        for register, value, high, but in (("cons", cons, beyond, " below ERR"), ("prod", prod, ~queue.mask, ""))
        if value & high
    ]
    if problems:
        raise InvalidInput(problems)
    if queue.distance(cons, prod) > queue.size:
        valid = f"up to {queue.size} entries beyond CONS = {cons:#x}, wrap bit (bit {log2size}) included"
        raise InvalidInput([f"prod: {prod:#x} is not valid: {valid}"])
    for number in range(queue.distance(cons, prod)):
        slot = queue.index(cons + number)
        yield _whole(memory[_ENTRY * slot : _ENTRY * (slot + 1)], name, _place(slot))


def _read(read: Callable[[int], bytes], n: int, where: str) -> bytes:
    try:
        return read(n)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput([f"{where}: cannot be read: {error}"]) from None


def _place(number: int) -> str:
    return f"entry {number} at offset {_ENTRY * number:#x}"


def _whole(raw: bytes, name: str, where: str) -> Entry:
    if len(raw) < _ENTRY:
        raise InvalidInput([f"{name}: {where}: the dump ends after {len(raw)} of {_ENTRY} bytes"])
    return Entry(raw, where)
