"""The one door through which every setting enters, from Python, TOML or ``--set``.

A settings class declares each field with a `Kind`. Its constructor reads all fields, gathers every problem and
raises them together as one `InvalidInput`; a problem is always ``dotted.path: what is wrong: what is valid``.
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import attrs

from smmu_lab.units import TIME, nanoseconds, size_in_bytes


class InvalidInput(ValueError):
    """Everything that is wrong with what was given, one line each.

    Attributes:
        problems: lines such as ``workload.pages: 0 is not valid: a positive integer``.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)  # so that pickle and simpy, which make it anew from `args`, can

    def __str__(self) -> str:
        return "\n".join(self.problems)


@attrs.frozen
class Kind:
    """What a field takes: the words for what is valid, and how to read it.

    `read` returns the value to keep, or raises `ValueError` (an `InvalidInput` when the value has fields itself).
    `options` are all values there are, where they are few.
    """

    valid: str
    read: Callable[[Any], Any]
    options: tuple[Any, ...] = ()


def named(values: Mapping[Any, Any], where: str) -> Mapping[str, Any]:
    """Let a table through whose names are texts.

    Raises:
        InvalidInput: some are not.
    """
    if strange := [name for name in values if type(name) is not str]:
        raise InvalidInput(invalid(where or "a field", name, "a name, as text") for name in strange)
    return values


def only(test: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """A `Kind.read` that keeps what passes the test."""

    def read(value: Any) -> Any:
        if not test(value):
            raise ValueError
        return value

    return read


def whole(low: int, high: int) -> Kind:
    """Whole numbers from `low` to `high`; ``2.7``, ``"2"`` and ``True`` are none."""
    return Kind(f"an integer from {low} to {high}", only(lambda v: type(v) is int and low <= v <= high))


def one_of(*options: str) -> Kind:
    """One of a few words."""
    return Kind("one of " + ", ".join(options), only(lambda v: type(v) is str and v in options), options)


def duration(value: Any) -> int:
    """Read a duration of at most an hour: no sum of a run then leaves 64 bits."""
    ns = nanoseconds(value)
    if ns > 3600 * TIME["s"]:
        raise ValueError
    return ns


def page_size(value: Any) -> int:
    """Read a translation granule: bytes, or a text such as ``"64KiB"``."""
    size = size_in_bytes(value)
    if size not in (4096, 16384, 65536):
        raise ValueError
    return size


POSITIVE = Kind("a positive integer", only(lambda v: type(v) is int and v > 0))
NATURAL = Kind("an integer of at least 0", only(lambda v: type(v) is int and v >= 0))
FLAG = Kind("true or false", only(lambda v: type(v) is bool), (False, True))
TEXT = Kind("a text", only(lambda v: type(v) is str))
DURATION = Kind('a duration such as "2.5us", or whole nanoseconds, up to an hour', duration)
GRANULE = Kind("4KiB, 16KiB or 64KiB", page_size, (4096, 16384, 65536))


def nested(cls: type[Settings]) -> Kind:
    """Settings within settings: an instance, or a mapping of its fields."""

    def read(value: Any) -> Settings:
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            return cls(**named(value, cls.where))
        raise ValueError

    return Kind(f"a {cls.__name__} or a table of its fields", read)


def many(where: str, cls: type[Settings], most: int) -> Kind:
    """A list of settings, each known by its number; their own class has no `where`."""

    def read(value: Any) -> tuple[Settings, ...]:
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            raise ValueError
        made, problems = [], []
        for number, each in enumerate(value):
            place = f"{where}[{number}]"
            if number == most:
                raise InvalidInput([f"{where}: too many: at most {most:,}"])
            if isinstance(each, cls):
                made.append(each)
            elif isinstance(each, Mapping):
                try:
                    made.append(cls(**named(each, place)))
                except InvalidInput as error:
                    problems += [line if line.startswith(place) else f"{place}.{line}" for line in error.problems]
            else:
                problems.append(invalid(place, each, nested(cls).valid))
        if problems:
            raise InvalidInput(problems)
        return tuple(made)

    return Kind(f"a list of {cls.__name__} or of tables of its fields", read)


def setting(kind: Kind, *, default: Any = attrs.NOTHING) -> Any:
    """Declare a field of a settings class; its default is read like any other value."""
    return attrs.field(default=default, metadata={"kind": kind})


C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting,))
def settings(cls: C) -> C:
    """Class decorator: frozen, keyword-only, with a signature that shows the defaults."""
    made = attrs.frozen(kw_only=True, init=False)(cls)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is attrs.NOTHING else field.default,
        )
        for field in attrs.fields(made)
    ]
    made.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return made


class Settings:
    """Base of every settings class: one constructor, one way to make a variant.

    Attributes:
        where: dotted path of these settings inside a scenario, for messages.
    """

    __slots__ = ()
    where: ClassVar[str] = ""

    def __init__(self, /, **given: Any) -> None:
        read: dict[str, Any] = {}
        fields = {field.name: field for field in self.fields()}
        problems = [unknown(self.path(name), name, fields) for name in given if name not in fields]
        for name, field in fields.items():
            value = given.get(name, field.default)
            if value is attrs.NOTHING:
                problems.append(f"{self.path(name)}: missing: {field.metadata['kind'].valid}")
                continue
            try:
                read[name] = field.metadata["kind"].read(value)
            except InvalidInput as error:
                problems += error.problems
            except ValueError:
                problems.append(invalid(self.path(name), value, field.metadata["kind"].valid))
        if not problems:
            self.__attrs_init__(**read)  # type: ignore[attr-defined]
            problems += self.conflicts()
        if problems:
            raise InvalidInput(problems)

    @classmethod
    def fields(cls) -> tuple[attrs.Attribute[Any], ...]:
        """The declared fields, in order."""
        return tuple(attrs.fields(cls))  # type: ignore[arg-type]

    def values(self) -> dict[str, Any]:
        """Name to value of every field."""
        return {field.name: getattr(self, field.name) for field in self.fields()}

    def conflicts(self) -> Iterable[str]:
        """What is wrong between fields that are each valid alone."""
        return ()

    @classmethod
    def path(cls, name: str) -> str:
        """Dotted path of a field."""
        return f"{cls.where}.{name}" if cls.where else name

    def but(self, changes: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """The same settings with some fields changed.

        Args:
            changes: dotted path to value, e.g. ``{"workload.pages": 64}``.
            **more: the same for fields of this object itself.

        Raises:
            InvalidInput: every unknown path and every value that is not valid.
        """
        given = self.values()
        kinds = {field.name: field.metadata["kind"] for field in self.fields()}
        deeper: dict[str, dict[str, Any]] = {}
        problems: list[str] = []
        for path, value in {**named(changes or {}, self.where), **more}.items():
            head, _, rest = path.partition(".")
            if rest and head in kinds:
                deeper.setdefault(head, {})[rest] = value
            else:
                given[path] = value
        for head, inner in deeper.items():  # after whole fields: {"costs": "n1", "costs.wake": "2us"} is both
            with suppress(InvalidInput, ValueError):  # the constructor reports it
                read = kinds[head].read(given[head])
                if not hasattr(read, "but"):
                    given |= {f"{head}.{rest}": value for rest, value in inner.items()}
                    continue
                given[head] = read
                try:
                    given[head] = given[head].but(inner)
                except InvalidInput as error:
                    problems += moved(error.problems, read.where, self.path(head))
        try:
            made = type(self)(**given)
        except InvalidInput as error:
            problems += error.problems
        if problems:
            raise InvalidInput(problems)
        return made


def moved(problems: Iterable[str], place: str, to: str) -> list[str]:
    """Lines about settings that stand elsewhere than their class says.

    >>> moved(["workload.pages: 0 is not valid"], "workload", "neighbour.workload")
    ['neighbour.workload.pages: 0 is not valid']
    """
    return [to + line[len(place) :] if line.startswith(f"{place}.") else line for line in problems]


def invalid(path: str, value: Any, valid: str) -> str:
    """The line for a value that is not valid; a long value is cut."""
    shown = repr(value)
    return f"{path}: {shown if len(shown) <= 60 else shown[:57] + '...'} is not valid: {valid}"


def unknown(path: str, name: str, names: Collection[str]) -> str:
    """The line for a name that does not exist, with the nearest one that does."""
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(names)}"
    shown = path if path.isprintable() else path.encode("unicode_escape").decode()  # it may come from a file
    return f"{shown}: unknown; {hint}"


def read_assignment(text: str) -> tuple[str, Any]:
    """Read one ``--set`` argument, ``path=value``; the value is TOML, or else a plain text.

    >>> read_assignment("workload.pages=64"), read_assignment("costs.exit_kernel=0.9us")
    (('workload.pages', 64), ('costs.exit_kernel', '0.9us'))

    Raises:
        InvalidInput: there is no ``=``.
    """
    path, equals, value = text.partition("=")
    if "\n" in text or not equals or not path.strip():
        raise InvalidInput([invalid("--set", text, "path=value, e.g. workload.pages=64")])
    try:
        return path.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return path.strip(), value.strip()
