"""What each step costs: integer nanoseconds, each with its range, its basis and its source."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import attrs

from smmu_lab.scenario.fields import (
    DURATION,
    InvalidInput,
    Kind,
    Settings,
    invalid,
    named,
    one_of,
    setting,
    settings,
    unknown,
)
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_time

PROFILES = ("grace", "n1", "a57")


@settings
class Cost(Settings):
    """One cost with its provenance.

    Attributes:
        low: smallest value worth exploring, ns.
        value: the value used, ns.
        high: largest value worth exploring, ns. ``low..high`` is a range to explore, not a confidence interval.
        unit: always ``ns``.
        meaning: what is done in this time.
        basis: ``measured`` (low and high are published figures), ``inferred`` (an estimate: a free parameter) or
            ``given`` (set by the user).
        source: where the figure comes from; names such as ``altra_hvc`` are explained in `published`.
    """

    low: int = setting(DURATION)
    value: int = setting(DURATION)
    high: int = setting(DURATION)
    unit: str = setting(one_of("ns"), default="ns")
    meaning: str = setting(Kind("a text", str))
    basis: str = setting(one_of("measured", "inferred", "given"))
    source: str = setting(Kind("a text", str))

    def conflicts(self) -> Iterator[str]:
        """A value lies within its range."""
        if not self.low <= self.value <= self.high:
            yield f"value: {self.value} is not valid: between low ({self.low}) and high ({self.high})"

    def __str__(self) -> str:
        return f"{show_time(self.value)} ({show_time(self.low)} .. {show_time(self.high)}, {self.basis})"


@attrs.frozen(repr=False)
class Costs(Mapping[str, Cost]):
    """A complete set of costs: a mapping of `Cost`, and each value in ns as an attribute.

    >>> grace = costs("grace")
    >>> grace.exit_user, str(grace["exit_user"])
    (1430, '1.43 µs (1.1 µs .. 1.77 µs, inferred)')
    >>> grace.but(exit_kernel="0.9us").exit_kernel
    900
    """

    where: ClassVar[str] = "costs"
    profile: str
    title: str
    table: Mapping[str, Cost] = attrs.field(hash=False)

    def __getitem__(self, name: str) -> Cost:
        return self.table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def __getattr__(self, name: str) -> int:
        try:
            return self.table[name].value
        except KeyError:
            raise AttributeError(unknown(f"costs.{name}", name, self.table)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.table]

    def __repr__(self) -> str:
        given = {name: cost.value for name, cost in self.items() if cost.basis == "given"}
        return f"costs({self.profile!r})" + (f".but({given})" if given else "")

    def sheet(self) -> Sheet:
        """One row per cost."""
        head = ("cost", "value", "low", "high", "basis", "meaning", "source")
        rows = [
            (name, *map(show_time, (cost.value, cost.low, cost.high)), cost.basis, cost.meaning, cost.source)
            for name, cost in self.items()
        ]
        return Sheet(head, rows, left=("cost", *head[4:]), caption=self.title)

    def _repr_html_(self) -> str:
        return self.sheet()._repr_html_()

    def but(self, changes: Mapping[str, Any] | None = None, /, **more: Any) -> Costs:
        """The same costs with some set by you.

        Args:
            changes: name to a duration (``"0.9us"`` or whole ns), or to a table with the fields of a `Cost`.
            **more: the same as keywords.

        Raises:
            InvalidInput: every unknown name, bad value, or part that is larger than its whole.
        """
        table = dict(self.table)
        problems: list[str] = []
        for name, value in {**named(changes or {}, "costs"), **more}.items():
            try:
                table[name] = _set(table, name, value)
            except InvalidInput as error:
                problems += error.problems
        problems += [
            f"costs.{part}: {table[part].value} is not valid: at most costs.{total} ({table[total].value}), its whole"
            for part, total in (("sync_occ", "t_sync"), ("vmm_lock", "exit_user"))
            if table[part].value > table[total].value
        ]
        if problems:
            raise InvalidInput(problems)
        return attrs.evolve(self, table=table)

    @classmethod
    def from_toml(cls, path: str | Path) -> Costs:
        """Read costs of your own: a ``base`` profile, and what differs from it by name.

        Raises:
            InvalidInput: the file cannot be read, is no TOML, or holds an unknown name or a bad value.
        """
        return read_costs(read_toml(path))

    def to_dict(self) -> dict[str, Any]:
        """The base profile and what differs from it, as `from_toml` reads them."""
        base = costs(self.profile)
        changed = {
            name: cost.value if cost == _set(base, name, cost.value) else cost.values()
            for name, cost in self.items()
            if cost != base[name]
        }
        return {"base": self.profile} | changed


def _set(table: Mapping[str, Cost], name: str, value: Any) -> Cost:
    if name not in table:
        raise InvalidInput([unknown(f"costs.{name}", name, table)])
    old = table[name]
    if isinstance(value, Cost):
        return value
    if isinstance(value, Mapping):
        try:
            return old.but(value)
        except InvalidInput as error:
            raise InvalidInput(f"costs.{name}.{line}" for line in error.problems) from None
    try:
        ns = DURATION.read(value)
    except ValueError:
        raise InvalidInput([invalid(f"costs.{name}", value, DURATION.valid)]) from None
    source = f"set by you; the profile says {show_time(old.value)}" if old.basis != "given" else old.source
    return old.but(value=ns, low=min(ns, old.low), high=max(ns, old.high), basis="given", source=source)


def costs(profile: str) -> Costs:
    """A bundled profile: ``grace``, ``n1`` or ``a57``.

    Raises:
        InvalidInput: there is no such profile.
    """
    if type(profile) is not str or profile not in PROFILES:
        raise InvalidInput([invalid("costs", profile, "one of " + ", ".join(PROFILES))])
    return _bundled(profile)


@cache
def _bundled(profile: str) -> Costs:
    text = files("smmu_lab.data").joinpath("costs", f"{profile}.toml").read_text("utf-8")
    data = tomllib.loads(text)
    return Costs(profile, data["title"], {name: Cost(**cost) for name, cost in data["costs"].items()})


def read_costs(value: Any) -> Costs:
    """Read what a scenario may hold as costs: `Costs`, a profile's name, or a table of a ``base`` and what differs."""
    if isinstance(value, Costs):
        return value
    if type(value) is str:
        return costs(value)
    if not isinstance(value, Mapping):
        raise ValueError
    changes = dict(named(value, "costs"))
    base = costs(changes.pop("base", "grace"))
    if strange := [name for name in changes if name not in base]:
        raise InvalidInput(unknown(f"costs.{name}", name, ("base", *base)) for name in strange)
    return base.but(changes)


@cache
def published() -> Mapping[str, Mapping[str, str]]:
    """The published results that the profiles rest on, by the names that a cost's `source` uses.

    >>> published()["altra_hvc"]["platform"]
    'Ampere Altra (Neoverse N1)'
    """
    return tomllib.loads(files("smmu_lab.data").joinpath("published.toml").read_text("utf-8"))


COSTS = Kind(f"a profile ({', '.join(PROFILES)}), Costs, or a table of a base and what differs", read_costs)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InvalidInput: one line that names the file and what is wrong.
    """
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput([f"{path}: is no TOML: {error}"]) from None
    except (OSError, ValueError) as error:
        raise InvalidInput([f"{path}: cannot be read: {getattr(error, 'strerror', error)}"]) from None
