"""Which layout of vSMMUs may run what: every layout under every approach, or the name of what forbids it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from smmu_lab.record import Estimate, Run, noun_of
from smmu_lab.scenario import Approach, InvalidInput, Scenario, approaches, read_approaches
from smmu_lab.scenario.fields import Kind, invalid
from smmu_lab.scenario.layout import RULES
from smmu_lab.scenario.topology import PRESETS, TOPOLOGY, Topology
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.study.figures import show_margin
from smmu_lab.study.shown import Shown
from smmu_lab.units import show_number


@attrs.frozen
class Refusal:
    """Why an approach cannot run on a layout.

    Attributes:
        name: of the rule (`smmu_lab.scenario.layout.RULES`), or of the setting that cannot be there.
        edge: where the rule is broken, and under which approach; empty for a setting.
        reason: the rule in words.
    """

    name: str
    edge: str
    reason: str


def refusals(lines: Iterable[str]) -> tuple[Refusal, ...]:
    """What refuses a scenario: lines of `Scenario.refuses`, or of an `InvalidInput`.

    >>> from smmu_lab.scenario import approach
    >>> scenario = Scenario(topology=Topology.preset("broadcast"))
    >>> refusals(scenario.refuses(approach("vcmdq")))[0].name
    'one-smmu-per-vcmdq'
    """
    made = []
    for line in lines:
        edge, _, rest = line.rpartition(" breaks the rule ")
        name, _, reason = rest.partition(": ")
        name = name.strip("'") if edge else name
        made.append(Refusal(name, edge, RULES.get(name, reason)))
    return tuple(made)


def lay(scenario: Scenario, topology: Topology, row: Approach) -> tuple[Scenario | None, tuple[str, ...]]:
    """A scenario on another topology; or no scenario, and why it cannot run there under an approach."""
    try:
        laid = scenario.but(topology=topology)
    except InvalidInput as error:
        return None, error.problems
    lines = laid.refuses(row)
    return (None if lines else laid), lines


def read_each(name: str, values: Iterable[Any], kind: Kind) -> list[Any]:
    """Values of a kind, at least one.

    Raises:
        InvalidInput: all that are none, or that there is none.
    """
    if isinstance(values, str) or not isinstance(values, Iterable) or not (given := list(values)):
        raise InvalidInput([invalid(name, values, f"a list of values, each {kind.valid}")])
    read: list[Any] = []
    problems: list[str] = []
    for value in given:
        try:
            read.append(kind.read(value))
        except InvalidInput as error:
            problems += error.problems
        except ValueError:
            problems.append(invalid(name, value, kind.valid))
    if problems:
        raise InvalidInput(problems)
    return read


def ran_for(run: Run) -> list[float]:
    """Commands that each SMMU ran for the measured guests, CMD_SYNCs included, per measured operation.

    On bare metal all that CPUs put into a CMDQ is the first guest's.
    """
    total = [0] * run.scenario.topology.smmus
    for row in run.issued.rows():
        if not run.scenario.is_neighbour(row["guest"]):
            total[row["smmu"]] += row["tlbi"] + row["atc"] + row["syncs"]
    return [each / max(1, len(run.measured)) for each in total]


@attrs.frozen
class Outcome:
    """One approach on one layout.

    Attributes:
        latency: of one measured operation in the mean, ns; None where it cannot run.
        host: commands that all SMMUs run for it, CMD_SYNCs included.
        refused: what forbids it.
    """

    latency: Estimate | None = None
    host: float = 0.0
    refused: tuple[Refusal, ...] = ()

    def __str__(self) -> str:
        if self.latency is None:
            return ", ".join(dict.fromkeys(each.name for each in self.refused))
        return f"{show_margin(self.latency)} ({show_number(self.host)})"

    def to_dict(self) -> dict[str, Any]:
        """As plain data; times in ns."""
        if self.latency is None:
            return {"refused": list(dict.fromkeys(each.name for each in self.refused))}
        return {"latency": attrs.asdict(self.latency), "host_commands": self.host}


@attrs.frozen(repr=False)
class Layouts(Shown):
    """Approaches on layouts.

    Attributes:
        scenario: what the guests do, on each of them.
        topologies: the layouts, by name.
        outcomes: approach by approach, what became of it on each layout.
        noun: what is measured.
    """

    scenario: Scenario
    topologies: Mapping[str, Topology]
    outcomes: Mapping[str, Mapping[str, Outcome]]
    noun: str

    def __getitem__(self, name: str) -> Mapping[str, Outcome]:
        return self.outcomes[name]

    @property
    def met(self) -> dict[str, Refusal]:
        """What forbids something here, by name: each where it was met first."""
        found: dict[str, Refusal] = {}
        for outcomes in self.outcomes.values():
            for outcome in outcomes.values():
                for each in outcome.refused:
                    found.setdefault(each.name, each)
        return found

    @property
    def title(self) -> str:
        """What was run."""
        made = self.scenario
        guests = f"{made.guests} guests x " if made.guests > 1 else ""
        return f"Layouts: {made.workload}, {guests}{made.vcpus} vCPU{'s'[: made.vcpus > 1]}, {made.costs.title}"

    @property
    def verdict(self) -> str:
        """Which layouts take every approach, and which approaches the others refuse."""
        said: dict[str, list[str]] = defaultdict(list)
        for name in self.topologies:
            refused = [row for row, outcomes in self.outcomes.items() if outcomes[name].refused]
            taken = [row for row in self.outcomes if row not in refused]
            few = f"refused: {', '.join(refused)}" if len(refused) <= len(taken) else f"only {', '.join(taken)}"
            said[(few if taken else "no approach") if refused else "every approach"].append(name)
        sentence = "; ".join(f"on {', '.join(names)} {what}" for what, names in said.items())
        return f"{sentence[0].upper()}{sentence[1:]}."

    def sheet(self) -> Sheet:
        """Approaches down, layouts across."""
        maps = " (under nesting a map sends nothing)" if self.noun.startswith("map") else ""
        caption = (
            f"mean latency of one {self.noun}{maps}, ± half of its 95 % interval where it varies, and in brackets the "
            "commands that SMMUs run for it; or what forbids it. vCPUs work on a guest's domains in turn."
        )
        rows = [(name, *(str(outcome) for outcome in outcomes.values())) for name, outcomes in self.outcomes.items()]
        return Sheet(("approach", *self.topologies), rows, left=("approach",), caption=caption)

    def rules_sheet(self) -> Sheet:
        """What forbids something, why, and one place where it does."""
        head = ("what forbids it", "why", "for example")
        rows = [(name, each.reason, each.edge or "-") for name, each in self.met.items()]
        return Sheet(head, rows, left=head)

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """All tables, in the order of reading."""
        return (self.sheet(), self.rules_sheet()) if self.met else (self.sheet(),)

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, as plain data; times in ns."""
        return {
            "scenario": self.scenario.to_dict(),
            "layouts": {name: topology.to_dict() for name, topology in self.topologies.items()},
            "outcomes": {
                name: {where: each.to_dict() for where, each in outcomes.items()}
                for name, outcomes in self.outcomes.items()
            },
            "refused": {name: {"reason": each.reason, "example": each.edge} for name, each in self.met.items()},
            "verdict": self.verdict,
        }


def layouts(
    scenario: Scenario,
    presets: Iterable[Topology | str] = tuple(PRESETS),
    names: Iterable[Approach | str] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Layouts:
    """Run a scenario on several layouts, under several approaches.

    Args:
        scenario: what the guests do; its own topology is not used.
        presets: the layouts: topologies, or names of presets; the names must differ.
        names: rows of the catalogue, by key or as objects; all by default.
        progress: called with what runs next.

    Raises:
        InvalidInput: no such approach or preset, a name twice, or a scenario that can run nowhere, whatever the layout.

    >>> result = layouts(Scenario(), ["one-smmu", "broadcast"], ["qemu-today", "vcmdq"])
    >>> print(result["vcmdq"]["broadcast"])
    one-smmu-per-vcmdq
    >>> result["qemu-today"]["broadcast"].host
    4.0
    """
    rows = read_approaches(approaches() if names is None else names)
    topologies = read_each("presets", presets, TOPOLOGY)
    if twice := [name for name, number in Counter(each.name for each in topologies).items() if number > 1]:
        raise InvalidInput(f"presets: {name!r} is there twice: give one a name with but(name=...)" for name in twice)
    outcomes: dict[str, dict[str, Outcome]] = {row.name: {} for row in rows}
    runs: list[Run] = []
    said: list[str] = []
    for row in rows:
        for topology in topologies:
            laid, lines = lay(scenario, topology, row)
            if laid is None:
                outcomes[row.name][topology.name] = Outcome(refused=refusals(lines))
                said += lines
                continue
            progress(f"{row.name} on {topology.name}")
            run = simulate(laid, row)
            outcomes[row.name][topology.name] = Outcome(run.latency.mean, sum(ran_for(run)))
            runs.append(run)
    if not runs and not any(each.edge for each in refusals(said)):
        raise InvalidInput(dict.fromkeys(said))
    return Layouts(scenario, {each.name: each for each in topologies}, outcomes, noun_of(runs) if runs else "unmap")
