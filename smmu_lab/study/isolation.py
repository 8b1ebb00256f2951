"""What reaches the host for a guest: its own VMID and StreamIDs, allowed commands, and as many as the engine counts.

Here commands have values (`smmu_lab.sim.passage`); the engine has numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, zip_longest
from typing import Any

from smmu_lab.arch import (
    FIELDS,
    HOST_ACCEPTS,
    VCMDQ_ACCEPTS,
    Command,
    IllegalCommand,
    atc_commands,
    decode,
    unmap_commands,
)
from smmu_lab.arch.vsmmu import Completes, Reporting, Vsmmu, always
from smmu_lab.scenario import Approach
from smmu_lab.sim.passage import passage, queues
from smmu_lab.study.evidence import Breach, Evidence, Listed, Name, queue_name

GUESTS = (
    Vsmmu(vmid=0x11, sids={8: 0x2301, 16: 0x2302, 24: 0x2303}),
    Vsmmu(vmid=0x12, sids={8: 0x2401, 16: 0x2402, 32: 0x2403}),
)
"""Two guests whose virtual StreamIDs overlap."""

STREAMS = 20
"""Random streams of entries."""
MOST_ENTRIES = 250
"""Real ones, of one run; what repeats counts once. Of a longer run the beginning is compared."""

_NAMED = {"vmid": (0x11, 0x12, 0, 0xFFFF), "sid": (8, 8, 16, 16, 24, 32, 0x2301, 0x2401)}
"""What a guest tries: both VMIDs and others, virtual StreamIDs of both guests, physical ones."""
_SYNC = bytes(Command.of("CMD_SYNC"))
_RESERVED = bytes(Command.of("TLBI_NH_VA", tg=1))
"""NUM, SCALE and TTL of 0 beside a granule: reserved (Arm IHI 0070, 4.4.1.1)."""


# -- isolation ---------------------------------------------------------------------------------------------------------


def beside_guests(row: Approach) -> str:
    """Why isolation says nothing about an approach."""
    if row.on_metal:
        return "the queue is the host's own: its commands may name every VMID and StreamID"
    return "" if row.nested else "no command of a guest reaches the host, which makes its own"


def isolation(row: Approach, seed: int) -> Iterator[Breach]:
    """Push hostile streams of two guests through an approach, and look at what comes out.

    Every command is tried with names of others, then random mixtures. A stream goes through each queue of the guest
    that has a way of its own, whatever a driver would send there, and on behind every entry in error, which the guest
    replaces. A consumer of your own takes commands through `host.execute`, so they pass as under the kernel's worker.
    """
    rng = random.Random(f"isolation/{seed}")
    for way, _ in queues(row, ()):
        if not way.executes_directly and passage(way, GUESTS[0], [_RESERVED]).stops_host:
            yield Breach(
                f"{way.name}: a guest can stop the host's own queue, and every guest's with it: "
                f"{decode(_RESERVED)} is passed on, and the SMMU calls that range illegal",
                reported=True,
            )
    for stream in streams(rng):
        for way, _ in queues(row, ()):
            for number, guest in enumerate(GUESTS):
                if _escape(way, guest, stream):
                    yield Breach(_told(way, number, guest, _smallest(way, guest, stream)))
                    return


def streams(rng: random.Random) -> Iterator[list[bytes]]:
    """What hostile guests write: of each command one that names others, more than fit into one list, and mixtures."""
    for name in FIELDS:
        yield [_entry(name, vmid=0x5555, sid=sid) for sid in (24, 32)] + [_SYNC]
    yield [_entry(rng.choice(sorted(HOST_ACCEPTS)), vmid=0x5555, sid=8) for _ in range(70)] + [_SYNC]
    for _ in range(STREAMS):
        yield [_any_entry(rng) for _ in range(rng.randint(1, 10))] + [_SYNC]


def _any_entry(rng: random.Random) -> bytes:
    match rng.randrange(8):
        case 0:
            return rng.randbytes(16)
        case 1:
            name = rng.choice(tuple(FIELDS))
        case 2:
            return _SYNC
        case _:
            name = rng.choice(sorted(HOST_ACCEPTS))
    return _entry(name, **{field: rng.choice(values) for field, values in _NAMED.items()})


def _entry(name: str, **values: int) -> bytes:
    """A command with the values of those fields that it has."""
    known = {field.name for field in FIELDS[name]}
    return bytes(Command.of(name, **{field: value for field, value in values.items() if field in known}))


def foreign(row: Approach, guest: Vsmmu, command: Command) -> str:
    """Why a command must not reach the host or the hardware for this guest; empty if it may.

    >>> from smmu_lab.scenario import approach
    >>> foreign(approach("qemu-today"), GUESTS[0], Command.of("TLBI_NH_ALL", vmid=0x12))
    'VMID 0x12 (its own is 0x11)'
    """
    name, fields = command.name, command.fields
    if name not in (valid := allowed(row)):
        return f"a command that must not come there (valid: {', '.join(sorted(valid))})"
    if (vmid := fields.get("vmid", guest.vmid)) != guest.vmid:
        return f"VMID {vmid:#x} (its own is {guest.vmid:#x})"
    if "sid" in fields and fields["sid"] not in guest.sids.values():
        return f"StreamID {fields['sid']:#x} (its own are {', '.join(map(hex, guest.sids.values()))})"
    return "a CMD_SYNC that signals (valid: CS = NONE)" if fields.get("cs") else ""


@cache
def allowed(row: Approach) -> frozenset[str]:
    """The commands that may reach the host's queue, or run in a queue of the hardware, for a guest.

    Beneath an overlaid VCMDQ both are in sight at once.
    """
    host = HOST_ACCEPTS - {"TLBI_NSNH_ALL"}
    if not row.executes_directly:
        return host
    return VCMDQ_ACCEPTS | host if row.unsupported == "stop-and-fix" else VCMDQ_ACCEPTS


def _escape(row: Approach, guest: Vsmmu, entries: Sequence[bytes]) -> tuple[Command, str] | None:
    """The first command that must not reach the host, and why; also where devices never answer."""
    ways: tuple[tuple[Reporting, Completes], ...] = (("strict", always), ("upstream", _without_atc_inv))
    for reporting, completes in ways:
        left = entries
        while left:
            seen = passage(row, guest, left, reporting, completes)
            for command in chain(*seen.issued):
                if why := foreign(row, guest, command):
                    return command, why
            left = left[seen.consumed + 1 :] if seen.cerror else ()
    return None


def _without_atc_inv(commands: Sequence[Command]) -> bool:
    return all(command.name != "ATC_INV" for command in commands)


def _smallest(row: Approach, guest: Vsmmu, entries: list[bytes]) -> list[bytes]:
    """The stream without the entries that the breach does not need."""
    for place in reversed(range(len(entries))):
        fewer = entries[:place] + entries[place + 1 :]
        if _escape(row, guest, fewer):
            entries = fewer
    return entries


def _told(row: Approach, number: int, guest: Vsmmu, entries: list[bytes]) -> str:
    escape = _escape(row, guest, entries)
    assert escape is not None
    command, why = escape
    where = "the hardware" if row.executes_directly else "the host's queue"
    written = "; ".join(f"{entry.hex()} ({_disassembled(entry)})" for entry in entries)
    return f"guest {number} writes {written}; under {row.name} that reaches {where} as {command}: {why}"


def _disassembled(entry: bytes) -> str:
    try:
        return str(decode(entry))
    except IllegalCommand:
        return "illegal"


# -- the engine's numbers ----------------------------------------------------------------------------------------------


def beside_real_lists(row: Approach) -> str:
    """Why the engine's lists cannot be compared with those of real commands."""
    if callable(row.consumer):
        return "a consumer of your own takes up at once what it likes, before it stores CONS"
    return beside_guests(row)


def same_commands(case: Evidence) -> Iterator[Breach]:
    """Real commands, as many as the lists count, become the lists that the host issued.

    A TLBI is a TLBI_NH_VA of one page, or, if a VCMDQ does not take it, a TLBI_NH_ALL. Two differences are left out so,
    both of the v1 patch (per-command): it drops a TLBI without a granule (TG = 0, of a guest without range
    invalidation), and makes one list for all devices of a CFGI_CD; the engine has them as any TLBI. What is taken up at
    once is told by the moves of CONS; what the VMM holds back for a CMD_SYNC comes again with what follows. A run under
    an erratum says nothing: the passage knows of none.
    """
    if case.scenario.smmu.errata != "none":
        return
    sids = {8 * (k + 1): 0x2301 + k for k in range(case.scenario.workload.ats_devices)}
    guest, most = Vsmmu(GUESTS[0].vmid, sids), (1 << case.scenario.smmu.host_queue_log2) - 1
    passed: dict[Approach, dict[Any, Any]] = {}
    tried = 0
    for queue, lists in case.guest_queues:
        row = case.by(queue)
        due: list[tuple[int, int]] = []
        held: tuple[bytes, ...] = ()
        known = passed.setdefault(row, {})
        for taken in _taken(case, queue, lists):
            if tried > MOST_ENTRIES:
                break
            key = held, tuple(each.work for each in taken)
            if key not in known:
                entries = (*held, *chain(*(_real(each.work, tuple(sids)) for each in taken)))
                tried += len(entries)
                seen = passage(row, guest, entries)
                kept = entries[seen.consumed :]
                known[key] = [_numbers(part) for part in _by_host(row, seen.issued, most)], kept, seen.cerror
            parts, held, cerror = known[key]
            due += parts
            if cerror:
                yield Breach(f"{queue_name(queue)}: real commands of its lists stop it with {cerror.name}", taken[:3])
        for call, numbers in zip_longest(case.calls[queue][: len(due) if tried > MOST_ENTRIES else None], due):
            issued = (call.work.tlbi, call.work.atc) if call else None
            if issued != numbers:
                said = f"{queue_name(queue)}: the host issues {_counted(issued)}, and real commands {_counted(numbers)}"
                near = tuple(dict.fromkeys(listed for _, listed in call.holds)) if call else ()
                yield Breach(said, near[:3] or (lists[-1],))
                break


def _taken(case: Evidence, queue: Name, lists: list[Listed]) -> Iterator[tuple[Listed, ...]]:
    """The lists of a queue, by the move of CONS that covers them."""
    at = 0
    for _, cons in case.stores[queue]:
        end = at
        while end < len(lists) and lists[end].end <= cons:
            end += 1
        yield tuple(lists[at:end])
        at = end


@cache
def _real(work: Any, sids: tuple[int, ...]) -> tuple[bytes, ...]:
    """The entries of a list, in the order in which the driver writes them."""
    iova = 1 << 32
    pages = range(iova, iova + (work.tlbi << 12), 1 << 12)
    commands = [Command.of("TLBI_NH_ALL") if not work.vcmdq else unmap_commands(page, 1 << 12)[0] for page in pages]
    commands += atc_commands(iova, 1 << 12, sids[: work.atc])
    others = {"CFGI_STE": work.ste, "PREFETCH_CFG": work.other, "CMD_SYNC": work.sync}
    return tuple(map(bytes, chain(commands, *([Command.of(name)] * number for name, number in others.items()))))


def _by_host(row: Approach, issued: Sequence[Sequence[Command]], most: int) -> Iterator[Sequence[Command]]:
    """The lists that the host issues: not those of the hardware, and none longer than its queue."""
    for commands in issued:
        if not row.executes_directly or not {command.name for command in commands} <= VCMDQ_ACCEPTS:
            for start in range(0, len(commands) or 1, most):
                yield commands[start : start + most]


def _numbers(commands: Sequence[Command]) -> tuple[int, int]:
    atc = sum(command.name == "ATC_INV" for command in commands)
    return len(commands) - atc, atc


def _counted(numbers: tuple[int, int] | None) -> str:
    return "nothing more" if numbers is None else "a list of {} TLBI and {} ATC_INV".format(*numbers)
