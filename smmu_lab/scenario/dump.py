"""Entries of a command queue, read one by one: hexadecimal lines, dumps of memory, and a queue between two pointers.

What stands in an entry is not looked at: beyond PROD a queue holds whatever was there before.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from smmu_lab.arch import Queue
from smmu_lab.scenario.fields import InvalidInput, invalid

_ENTRY = 16
_LOG2SIZE_MAX = 19  # of IDR1.CMDQS
_LONGEST_LINE = 256


def read_hex(text: str, where: str = "entry") -> bytes:
    """One entry as 32 hexadecimal digits, in the order of memory; ``0x``, ``_`` and spaces do not count.

    Args:
        text: the digits.
        where: what the message calls it.

    Raises:
        InvalidInput: anything else; the message has the first character that is no digit, or the number of digits.

    >>> read_hex("4620c00f 00000000_00000000_00000000").hex()
    '4620c00f000000000000000000000000'
    >>> read_hex("4620c0of")
    Traceback (most recent call last):
        ...
    smmu_lab.scenario.fields.InvalidInput: entry: '4620c0of' is not valid: 32 hexadecimal digits (column 7 is 'o')
    """
    digits = "".join(text.replace("0x", "").replace("_", "").split())
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if len(raw) == _ENTRY:
        return raw
    shown = text.replace("0x", "00")
    strange = (i for i, c in enumerate(shown) if c not in "0123456789abcdefABCDEF_" and not c.isspace())
    column = next(strange, None)
    why = f"there are {len(digits)}" if column is None else f"column {column + 1} is {text[column]!r}"
    raise InvalidInput([f"{invalid(where, text.strip(), f'{2 * _ENTRY} hexadecimal digits')} ({why})"])


def read_hex_lines(file: BinaryIO) -> Iterator[bytes]:
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


def open_file(path: str | os.PathLike[str], error: type[InvalidInput] = InvalidInput) -> BinaryIO:
    """Open a file to read its bytes, decompressed if its name ends in ``.gz``.

    Raises:
        InvalidInput: it cannot be opened; `error` chooses a subclass.
    """
    try:
        return cast(BinaryIO, gzip.open(path) if Path(path).suffix == ".gz" else Path(path).open("rb"))
    except (OSError, ValueError) as why:
        raise error([f"{path}: cannot be read: {getattr(why, 'strerror', why)}"]) from None


def read_dump(file: BinaryIO, name: str = "dump") -> Iterator[bytes]:
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
    while raw := _read(file.read, _ENTRY, where := _place(name, number)):
        yield _whole(raw, where)
        number += 1


def read_queue(
    file: BinaryIO, name: str = "dump", *, cons: int, prod: int, log2size: int | None = None
) -> Iterator[bytes]:
    """The entries that are in a queue, from CONS to the last before PROD, out of a dump of its memory.

    Args:
        file: the dump, from slot 0 on; what follows the queue is not read.
        name: what messages call it.
        cons: CMDQ_CONS as the register has it, wrap bit included; ERR does not count.
        prod: CMDQ_PROD likewise.
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
    if queue.distance(cons, prod) > queue.size:
        valid = f"up to {queue.size} entries beyond CONS = {cons:#x}, wrap bit (bit {log2size}) included"
        raise InvalidInput([f"prod: {prod:#x} is not valid: {valid}"])
    for number in range(queue.distance(cons, prod)):
        slot = queue.index(cons + number)
        yield _whole(memory[_ENTRY * slot : _ENTRY * (slot + 1)], _place(name, slot))


def _read(read: Callable[[int], bytes], n: int, where: str) -> bytes:
    try:
        return read(n)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput([f"{where}: cannot be read: {error}"]) from None


def _place(name: str, number: int) -> str:
    return f"{name}: entry {number} at offset {_ENTRY * number:#x}"


def _whole(raw: bytes, where: str) -> bytes:
    if len(raw) < _ENTRY:
        raise InvalidInput([f"{where}: the dump ends after {len(raw)} of {_ENTRY} bytes"])
    return raw
