"""How fast the lab is: the engine beside its textbook twin and beside C, decoders beside what unpacks an entry.

What is compared runs interleaved in one process.

The engine is measured as it is used: `simulate`, with everything recorded. A machine that is busy changes a ratio by
15 % and more, so ratios are taken within a round, and each figure comes with its smallest and largest value.
"""

from __future__ import annotations

import gc
import platform
import resource
import struct
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from io import BytesIO
from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.arch import Command, decode, unmap_commands
from smmu_lab.record import Run
from smmu_lab.scenario import Approach, InvalidInput, Scenario, Smmu, Unmaps, approach, approaches
from smmu_lab.scenario.dump import read_dump
from smmu_lab.scenario.fields import unknown
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.sim.driver import lists
from smmu_lab.sim.textbook import Outcome, textbook
from smmu_lab.study.limit import FORMS, Limit, Unavailable, load, operations
from smmu_lab.study.machines import ROWS, machines, machines_sheet
from smmu_lab.units import show_number

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

BATCHES = (1, 8, 64)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
"""Commands of one run: the cost of a command should not grow with them."""
CROWDS = (1, 4, 16, 64, 256)
"""VCPUs that share the commands of one run."""
SCALED = ("qemu-today", "short-path", "bare-metal")
TEXTBOOK_ROUNDS = 3
"""The textbook is slow, and its times vary less: it runs in the first rounds only."""
LIMITED = "bare-metal"
"""The row that is also written in C."""
RATIOS = (
    ("textbook", "engine"),
    ("engine", "c_per_command"),
    ("engine", "c_per_batch"),
    ("textbook", "c_per_command"),
    ("textbook", "c_per_batch"),
)
DECODER_RATIOS = (("decode", "unpack"), ("dump", "unpack"), ("dump", "decode"))
FINE = 1_000_000
"""Steps of a finer clock in one nanosecond, so that no two CPUs do something in the same step."""
IMPORTS = {"python": "pass", "smmu_lab": "import smmu_lab", "simulate": "import smmu_lab; smmu_lab.simulate"}

Progress = Callable[[str], None]
Spread = dict[str, float]


def rows() -> dict[str, Approach]:
    """What is measured unless somebody chooses: the catalogue, and VCMDQs that take turns command by command."""
    turns = approach("vcmdq").but(arbitration="round-robin", name="vcmdq-round-robin")
    return {row.name: row for row in (*approaches(), turns)}


def bench(
    batches: Iterable[int] = BATCHES,
    names: Iterable[str] = (),
    *,
    commands: int = 20_000,
    vcpus: int = 16,
    repetitions: int = 5,
    by_the_book: bool = True,
    scaling: bool = True,
    progress: Progress = lambda what: None,
) -> Report:
    """Measure.

    Args:
        batches: TLBIs of an unmap; range invalidation is off.
        names: of `rows`; none is all.
        commands: of one run, about; CMD_SYNCs count.
        vcpus: that share them.
        repetitions: rounds that count; the engine and C run one more before, to warm up.
        by_the_book: run the textbook as well.
        scaling: measure also against the number of commands, of vCPUs and of SMMUs.
        progress: called with what comes next.

    Raises:
        InvalidInput: an unknown name.
    """
    known = rows()
    chosen = list(names) or list(known)
    if wrong := [name for name in chosen if name not in known]:
        raise InvalidInput(unknown(f"approach {name!r}", name, known) for name in wrong)
    limit, reason = _limit()
    refused = []
    races = []
    for batch in batches:
        scenario = unmaps(batch, commands, vcpus)
        for name in chosen:
            if reasons := scenario.refuses(known[name]):
                refused.append({"batch": batch, "approach": name, "reasons": list(reasons)})
            else:
                races.append(Race(scenario, known[name], by_the_book, limit))
    _run(races, repetitions, progress)
    data: dict[str, Any] = {
        "python": platform.python_version(),
        "simpy": version("simpy"),
        "machine": platform.machine(),
        "system": platform.platform(terse=True),
        "c": {"compiler": limit and limit.compiler, "reason": reason},
        "commands": commands,
        "vcpus": vcpus,
        "repetitions": repetitions,
        "rows": [race.to_dict() for race in races],
        "refused": refused,
        "scaling": _scaling([known[n] for n in SCALED if n in chosen], commands, vcpus, repetitions, progress)
        if scaling
        else None,
        "machines": machines([n for n in ROWS if n in chosen], repetitions=min(repetitions, 2), progress=progress)
        if scaling
        else [],
        "decoding": _decoding(commands, repetitions, progress),
        "import_s": _imports(repetitions, progress),
        "disagreements": [line for race in races for line in race.disagreements(progress)],
    }
    return Report(data)


def unmaps(batch: int, commands: int, vcpus: int) -> Scenario:
    """Strict unmaps of so many TLBIs each, about so many commands in all.

    >>> unmaps(8, 20_000, 16).workload.ops
    139
    """
    scenario = Scenario(workload=Unmaps(pages=batch), smmu=Smmu(ril=False), vcpus=vcpus)
    entries = sum(work.entries for work in _lists(scenario))
    return scenario.but({"workload.ops": max(1, round(commands / entries / vcpus))})


def _lists(scenario: Scenario) -> list[Any]:
    (unmap, *_) = scenario.operations(0, 0)
    return [work for batch in unmap.batches for work in lists(batch)]


class Race:
    """One load under one approach: its models, and the CPU time that each took, round by round.

    Attributes:
        commands: what the load comes to as SMMU commands, CMD_SYNCs included: the same under every approach.
        calls: issue calls of the guest's driver: lists, or requests.
        absent: why a model does not run.
    """

    def __init__(
        self, scenario: Scenario, row: Approach, by_the_book: bool = False, limit: Limit | None = None
    ) -> None:
        self.scenario, self.row = scenario, row
        load, works = scenario.workload, _lists(scenario)
        assert isinstance(load, Unmaps)
        self.batch = load.pages
        self.operations = scenario.guests * scenario.vcpus * load.ops
        self.commands = self.operations * sum(work.entries for work in works)
        self.calls = self.operations * (1 + load.maps if row.front == "virtio-iommu" else len(works))
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.absent: dict[str, str] = {}
        self.events: dict[str, Mapping[str, int]] = {}
        self.bytes = 0
        self.done: dict[str, list[tuple[int, int, int]]] = {}
        self.models: dict[str, Callable[[], Any]] = {"engine": partial(simulate, scenario, row)}
        if by_the_book:
            self.models["textbook"] = partial(textbook, scenario, row)
        if row.name == LIMITED and limit is not None:
            self.models |= self._in_c(limit)

    def _in_c(self, limit: Limit) -> Iterator[tuple[str, Callable[[], Any]]]:
        try:
            prepared = load(self.scenario)
        except Unavailable as why:
            self.absent = dict.fromkeys(FORMS, str(why))
        else:
            for form in FORMS:
                yield form, partial(limit.run, form, prepared)

    def lap(self, number: int) -> None:
        """One round; number 0 is to warm up."""
        for name, model in list(self.models.items()):
            if name == "textbook" and not 1 <= number <= TEXTBOOK_ROUNDS:
                continue
            gc.collect()
            start = time.process_time()
            try:
                outcome = model()
            except Unavailable as why:
                self.absent[name] = str(why)
                del self.models[name]
                continue
            spent = time.process_time() - start
            if number:
                self.seconds[name].append(spent)
            if name not in self.events:
                self._note(name, outcome)

    def _note(self, name: str, outcome: Any) -> None:
        """Keep of a model's first outcome what is not a time."""
        if isinstance(outcome, Run):
            self.events[name] = outcome.events
            self.bytes = outcome.ops.bytes + outcome.batches.bytes
        elif isinstance(outcome, Outcome):
            self.events[name] = {"all": outcome.events}
        else:
            self.events[name] = {"all": outcome[1]}
        if self.row.name == LIMITED:
            self.done[name] = _operations(outcome)

    def disagreements(self, progress: Progress) -> Iterator[str]:
        """Where a model did something else than the engine, one line each.

        C has the engine's order for what happens at one instant; the textbook has not, so they are compared on a clock
        so fine that the order does not matter.
        """
        wrong = [name for name in FORMS if name in self.done and self.done[name] != self.done["engine"]]
        if self.row.name == LIMITED and "textbook" in self.models:
            progress(f"batches of {self.batch}, {LIMITED}: engine and textbook operation by operation")
            fine = on_a_fine_clock(self.scenario)
            if _operations(simulate(fine, self.row)) != _operations(textbook(fine, self.row)):
                wrong.append("textbook")
        for name in wrong:
            yield f"batches of {self.batch}, {self.row.name}: {name} and the engine differ"

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data; a model that did not run is null."""
        models = ("engine", "textbook", *FORMS)
        causes = {cause: count / self.calls for cause, count in sorted(self.events["engine"].items())}
        return {
            "batch": self.batch,
            "approach": self.row.name,
            "operations": self.operations,
            "calls": self.calls,
            "commands": self.commands,
            **{model: self._figure(model) for model in models},
            "ratios": {f"{slow}/{fast}": self._ratio(slow, fast) for slow, fast in RATIOS},
            "absent": self.absent,
            "events_per_call": {
                model: sum(self.events[model].values()) / self.calls if model in self.events else None
                for model in models
            },
            "causes_per_call": causes,
            "bytes_per_command": self.bytes / self.commands,
        }

    def _figure(self, model: str) -> dict[str, Any] | None:
        return _figure(self.commands, self.seconds[model]) if self.seconds.get(model) else None

    def _ratio(self, slow: str, fast: str) -> Spread | None:
        pairs = list(zip(self.seconds.get(slow, ()), self.seconds.get(fast, ()), strict=False))
        return _spread([a / b for a, b in pairs]) if pairs else None


def _figure(commands: int, seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "repetitions": len(seconds),
        "cpu_s": _spread(seconds),
        "commands_per_s": _spread([commands / spent for spent in seconds]),
    }


def _run(races: Sequence[Race], repetitions: int, progress: Progress, first: int = 0) -> None:
    """All races once, then all again: what disturbs the machine for a while disturbs all alike."""
    for number in range(first, repetitions + 1):
        for race in races:
            progress(f"round {number} of {repetitions}: batches of {race.batch}, {race.row.name}")
            race.lap(number)


def _operations(outcome: Any) -> list[tuple[int, int, int]]:
    """Every operation as (vCPU, start, latency), in order of vCPU and time."""
    if isinstance(outcome, Run):
        return sorted(zip(outcome.ops["vcpu"], outcome.ops["start"], outcome.latencies, strict=True))
    if isinstance(outcome, Outcome):
        return sorted((vcpu, int(start), int(latency)) for _, vcpu, _, start, latency in outcome.ops)
    return operations(outcome[0])


def on_a_fine_clock(scenario: Scenario) -> Scenario:
    """The same load on a clock with `FINE` steps in a nanosecond: two CPUs never act in the same one.

    Only the driver's udelays keep their number of steps, so they become short.
    """
    costs = scenario.costs
    part = ("g_fix", "g_cmd", "mmio_w", "mmio_r", "relax", "t_tlbi", "t_sync", "sync_occ")
    finer = costs.but({name: FINE * getattr(costs, name) for name in part})
    return scenario.but({"costs": finer, "workload.think": FINE * scenario.workload.think})


def _scaling(
    chosen: Sequence[Approach], commands: int, vcpus: int, repetitions: int, progress: Progress
) -> dict[str, list[dict[str, Any]]]:
    """CPU time per command against the number of commands, and of vCPUs; without a round to warm up."""
    sweeps = {
        "commands": [unmaps(8, size, vcpus) for size in SIZES],
        "vcpus": [unmaps(8, commands, crowd) for crowd in CROWDS],
    }
    races = {name: [Race(each, row) for row in chosen for each in sweep] for name, sweep in sweeps.items()}
    _run([race for sweep in races.values() for race in sweep], min(repetitions, 3), progress, first=1)
    return {
        name: [
            {
                "approach": race.row.name,
                "commands": race.commands,
                "vcpus": race.scenario.vcpus,
                "us_per_command": _spread([1e6 * spent / race.commands for spent in race.seconds["engine"]]),
                "events_per_call": sum(race.events["engine"].values()) / race.calls,
            }
            for race in sweep
        ]
        for name, sweep in races.items()
    }


def decoders(commands: int) -> dict[str, Callable[[], Iterator[Any]]]:
    """Ways to read the entries of unmaps of eight pages, by name: each call reads them all, one by one.

    ``unpack`` only takes the two words apart, ``decode`` makes commands, ``dump`` reads a dump of the queue's memory
    and gives the lines of ``smmu-lab decode``.

    >>> [next(read()) for read in decoders(9).values()][1:]
    [Command.of('TLBI_NH_VA', va=0x100000000, leaf=1), 'TLBI_NH_VA asid=0x0 va=0x100000000 leaf']
    """
    unmap = [*unmap_commands(0x1_0000_0000, 8 << 12, ril=False), Command.of("CMD_SYNC", cs=2, msh=3, msiattr=15)]
    entries = list(islice(cycle(map(bytes, unmap)), commands))
    memory = b"".join(entries)
    return {
        "unpack": lambda: map(struct.Struct("<QQ").unpack, entries),
        "decode": lambda: map(decode, entries),
        "dump": lambda: map(str, map(decode, read_dump(BytesIO(memory)))),
    }


def _decoding(commands: int, repetitions: int, progress: Progress) -> dict[str, Any]:
    models = decoders(commands)
    seconds = defaultdict(list)
    for number in range(repetitions + 1):
        progress(f"round {number} of {repetitions}: decoding")
        for name, read in models.items():
            gc.collect()
            start = time.process_time()
            deque(read(), maxlen=0)
            if number:
                seconds[name].append(time.process_time() - start)
    ratios = {
        f"{slow}/{fast}": _spread([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)])
        for slow, fast in DECODER_RATIOS
    }
    return {
        "commands": commands,
        **{name: _figure(commands, spent) for name, spent in seconds.items()},
        "ratios": ratios,
    }


def _imports(repetitions: int, progress: Progress) -> dict[str, Spread]:
    """CPU time of a Python that does nothing, that imports the lab, and that gets `simulate` from it."""
    seconds = defaultdict(list)
    for number in range(repetitions):
        for name, program in IMPORTS.items():
            progress(f"import {number + 1} of {repetitions}: {name}")
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", program], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {name: _spread(spent) for name, spent in seconds.items()}


def _limit() -> tuple[Limit | None, str | None]:
    try:
        return Limit(), None
    except Unavailable as why:
        return None, str(why)


def _spread(values: Sequence[float]) -> Spread:
    return {"min": min(values), "median": median(values), "max": max(values)}


@attrs.frozen(repr=False)
class Report:
    """What was measured.

    Attributes:
        data: all of it as plain data.
    """

    data: Mapping[str, Any]

    @property
    def disagreements(self) -> list[str]:
        """Models that did not do what the engine did; there should be none."""
        found: list[str] = self.data["disagreements"]
        return found

    def sheets(self) -> Iterator[Sheet]:
        """All tables, in the order of reading."""
        yield self._engine()
        yield self._causes()
        if any(row["c_per_batch"] for row in self.data["rows"]):
            yield self._limit()
        for name, sweep in (self.data["scaling"] or {}).items():
            if sweep:
                yield self._sweep(name, sweep)
        if self.data["machines"]:
            yield machines_sheet(self.data["machines"])
        yield self._decoding()
        spent = self.data["import_s"]
        cells = [(name, _cell({key: 1000 * value for key, value in each.items()})) for name, each in spent.items()]
        yield Sheet(("import", "CPU ms"), cells, left=("import",), caption="A fresh interpreter")

    def _engine(self) -> Sheet:
        head = ("batch", "approach", "commands", "commands / s", "textbook / engine", "events / call", "B / command")
        cells = [
            (
                str(row["batch"]),
                row["approach"],
                f"{row['commands']:,}",
                _cell(row["engine"]["commands_per_s"]),
                _cell(row["ratios"]["textbook/engine"]),
                show_number(row["events_per_call"]["engine"]),
                show_number(row["bytes_per_command"]),
            )
            for row in self.data["rows"]
        ]
        caption = f"{self.data['vcpus']} vCPUs, CPU time, {self.data['repetitions']} repetitions: median (min .. max)"
        return Sheet(head, cells, left=("approach",), caption=caption)

    def _causes(self) -> Sheet:
        causes = sorted({cause for row in self.data["rows"] for cause in row["causes_per_call"]})
        cells = [
            (
                str(row["batch"]),
                row["approach"],
                *(f"{n:.2f}" if (n := row["causes_per_call"].get(cause)) else "" for cause in causes),
            )
            for row in self.data["rows"]
        ]
        return Sheet(("batch", "approach", *causes), cells, left=("approach",), caption="Events per call, by cause")

    def _limit(self) -> Sheet:
        head = ("batch", "in C, an event per", "commands / s", "events / call", "engine / C", "textbook / C")
        cells = [
            (
                str(row["batch"]),
                form.removeprefix("c_per_"),
                _cell(row[form]["commands_per_s"]),
                show_number(row["events_per_call"][form]),
                _cell(row["ratios"][f"engine/{form}"]),
                _cell(row["ratios"][f"textbook/{form}"]),
            )
            for row in self.data["rows"]
            for form in FORMS
            if row[form]
        ]
        return Sheet(head, cells, left=("in C, an event per",), caption=f"{LIMITED}, {self.data['c']['compiler']}")

    def _decoding(self) -> Sheet:
        data = self.data["decoding"]
        forms = {
            "unpack": "struct.unpack alone",
            "decode": "arch.decode",
            "dump": "a dump, to lines of text",
        }
        cells = [
            (form, _cell(data[name]["commands_per_s"]), _cell(data["ratios"].get(f"{name}/unpack")))
            for name, form in forms.items()
        ]
        caption = f"{data['commands']:,} queue entries, CPU time: median (min .. max)"
        head = ("entries read by", "commands / s", "CPU time / struct.unpack")
        return Sheet(head, cells, left=head[:1], caption=caption)

    def _sweep(self, name: str, sweep: list[dict[str, Any]]) -> Sheet:
        points = sorted({each[name] for each in sweep})
        cells = [
            (row, *(_cell(each["us_per_command"]) for each in sweep if each["approach"] == row))
            for row in dict.fromkeys(each["approach"] for each in sweep)
        ]
        caption = f"CPU µs per command, against the number of {name.replace('vcpus', 'vCPUs')}"
        return Sheet(("approach", *(f"{point:,}" for point in points)), cells, left=("approach",), caption=caption)

    @property
    def notes(self) -> list[str]:
        """What is missing and why, and what is wrong."""
        refused = [
            f"left out: batches of {each['batch']}, {each['approach']}: {reason}"
            for each in self.data["refused"]
            for reason in each["reasons"]
        ]
        absent = [
            f"no {model} for batches of {row['batch']}: {reason}"
            for row in self.data["rows"]
            for model, reason in row["absent"].items()
        ]
        without = [f"nothing in C: {self.data['c']['reason']}"] if self.data["c"]["reason"] else []
        return [*refused, *absent, *without, *(f"WRONG: {line}" for line in self.disagreements)]

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as plain data."""
        return dict(self.data)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield from self.sheets()
        yield Text("\n".join(self.notes))

    def __repr__(self) -> str:
        return "\n\n".join([*(f"{sheet.caption}\n{sheet}" for sheet in self.sheets()), *self.notes])


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    middle, low, high = (show_number(spread[name]) for name in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low} .. {high})"
