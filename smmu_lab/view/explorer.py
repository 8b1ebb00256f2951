"""The explorer: approaches and a scenario to turn, and the pictures that follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from html import escape
from statistics import fmean
from time import thread_time
from typing import Any

import attrs
import traitlets

from smmu_lab.charts import breakdown_sheet, still, summary
from smmu_lab.scenario import Approach, InvalidInput, Scenario, approach, approaches, read_approaches
from smmu_lab.sim import simulate
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.simulate import observed
from smmu_lab.study import Comparison
from smmu_lab.view.explorer_approaches import columns, inked, misshapen, plain
from smmu_lab.view.explorer_budget import DRAWING, Dropped, TooMuch, Watched, affordable, asked, work
from smmu_lab.view.explorer_code import origin, python, toml
from smmu_lab.view.explorer_pictures import VIEWS, basis, drawn, level, state, table
from smmu_lab.view.knobs import Knob, applied, fixed, knobs, preset_of, values
from smmu_lab.view.live import Live, script, style


@attrs.frozen
class Asked:
    """What a setting asks for.

    Attributes:
        scenario: all of it.
        rows: the approaches that can run it.
        preset: the table that its topology was made from, if it was.
        stand: what the controls stand at, and what is wrong with approaches, for the browser.
    """

    scenario: Scenario
    rows: tuple[Approach, ...]
    preset: Mapping[str, Any]
    stand: Mapping[str, Any]


class Explorer(Live):
    """Controls, pictures, a table and a sentence. The browser holds no model: it asks and shows the answer.

    A setting is answered at once, with as many unmaps as a budget of CPU time allows; `settle` simulates all of them.

    Attributes:
        scenario: where the controls started.
        setting: what the controls say: dotted path to value, where it is not as in `scenario`; and ``approaches``, a
            list of ``{"row": key, "changes": None, or column to value}``. Set it from Python: the controls follow.
        shown: the answer: the setting that it belongs to, pictures and words, and what the controls stand at.
        running: a full run is under way.
        code: what is shown as Python and TOML, once somebody asked for it.
        comparison: the result that is shown.
        width: of the pictures, px, as the browser measured it.
        looking: the picture in sight; a preview draws no other.
    """

    _esm = script("explorer_knobs", "explorer_approaches", "explorer")
    _css = style("explorer")

    knobs: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    catalogue: traitlets.List[Any] = traitlets.List().tag(sync=True)
    columns: traitlets.List[Any] = traitlets.List().tag(sync=True)
    start: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    setting: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    shown: traitlets.Dict[str, Any] = traitlets.Dict({"level": ""}).tag(sync=True)
    running = traitlets.Bool(False).tag(sync=True)
    code: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    width = traitlets.Int(860).tag(sync=True)
    looking = traitlets.Enum(VIEWS, VIEWS[0]).tag(sync=True)

    def __init__(self, scenario: Scenario | None, chosen: Iterable[Approach | str]) -> None:
        self.scenario = scenario or Scenario()
        self.comparison: Comparison | None = None
        self._rows = {row.name: row for row in approaches()}
        self._asked: Asked | None = None  # by the setting, if it can be simulated
        self._drawn: Asked | None = None  # by what is shown
        self._question = 0  # a run of another one is stale
        self._task: asyncio.Task[None] | None = None
        self._paces: dict[str, float] = {}
        self._offered: object = None  # what the choices of the controls follow from
        self._groups: dict[str, tuple[Knob, ...]] = {}
        self._more: dict[str, set[Any]] = {}
        start = {"approaches": [self._entry(row) for row in read_approaches(chosen)]}
        super().__init__(
            start=start,
            catalogue=[{name: plain(value) for name, value in row.values().items()} for row in self._rows.values()],
            columns=columns(self._rows.values()),
        )
        self.on_msg(self._hear)
        self.setting = start
        self.settle(wait=True)
        self._paces.clear()  # a cold start says nothing of what follows

    # -- what is asked for -------------------------------------------------------------------------------------------

    def _entry(self, row: Approach) -> dict[str, Any]:
        """An approach as a row of the catalogue with changes, or else as a row of its own."""
        base, changes = origin(row)
        if not changes:
            return {"row": row.name, "changes": None}
        if changes.pop("name", "") == f"{base.name}*" and not any(map(callable, changes.values())):
            return {"row": base.name, "changes": changes}
        self._rows[row.name] = row
        return {"row": row.name, "changes": None}

    @traitlets.validate("setting")
    def _whole(self, proposal: Any) -> dict[str, Any]:
        entries = proposal["value"].get("approaches", self.start["approaches"])
        if isinstance(entries, list | tuple):
            entries = [self._read(each) for each in entries]
        return {**proposal["value"], "approaches": entries}

    def _read(self, each: Any) -> Any:
        """An entry in full; what is none stays, and is said."""
        if isinstance(each, Approach):
            return self._entry(each)
        each = {"row": each} if isinstance(each, str) else each
        return {**each, "changes": each.get("changes")} if isinstance(each, Mapping) else each

    @traitlets.observe("setting")
    def _ask(self, change: Any) -> None:
        begun = thread_time()
        self._question += 1
        self.running = False
        self._asked = None
        try:
            took = self._preview()
        except Exception as error:  # a widget has no other place to say it
            self._say(_wrong(error))
        else:
            self._learn(took, (thread_time() - begun) * 1e6)

    def _preview(self) -> dict[str, float]:
        """Show as much of the setting as the budget allows; how long each approach took to simulate, µs.

        A setting that is too much for any preview keeps the last picture, until `settle` has simulated it.
        """
        if problems := misshapen(self.setting["approaches"]):
            raise InvalidInput(problems)
        scenario = applied(self.scenario, self.setting)
        stand = self._offer(scenario)
        names = self._names()
        rows: list[Approach] = []
        refused, impossible = [], False
        for name, entry in zip(names, self.setting["approaches"], strict=True):
            try:
                row = self._row(name, entry)
                reasons = scenario.refuses(row)
                rows += [] if reasons else [row]
            except InvalidInput as error:
                reasons, impossible = error.problems, True
            refused.append("\n".join(reasons))
        said = {"names": inked(names), "refused": refused, **stand}
        if impossible:
            self._say(["approaches: one cannot be as it is chosen; the reason stands beside it"], said)
        elif not rows:
            self._say([f"approaches: none {'of those chosen can run this' if names else 'is chosen'}"], said)
        else:
            self._asked = Asked(scenario, tuple(rows), preset_of(self.setting), said)
            try:
                result, took = self._some(self._asked)
            except TooMuch as error:
                self._say([str(error)])
            else:
                self._show(self._asked, result)
                return took
        return {}

    def _names(self) -> list[str]:
        """The name of each chosen approach; a row that is changed has a ``*``, the second such one two, and so on."""
        names: list[str] = []
        for entry in self.setting["approaches"]:
            name = str(entry["row"])
            if entry["changes"] is not None:
                name = name.rstrip("*") + "*"
            while name in names:
                name += "*"
            names.append(name)
        return names

    def _row(self, name: str, entry: Mapping[str, Any]) -> Approach:
        row = self._rows.get(entry["row"]) or approach(entry["row"])
        return row if row.name == name else row.but({**(entry["changes"] or {}), "name": name})

    def _offer(self, now: Scenario) -> dict[str, Any]:
        """Let the controls offer what fits profile and page size, and every value ever set; what they stand at."""
        stand = values(self.scenario, now, self.setting)
        offer = stand["costs"].rstrip("*"), stand.get("workload.granule")
        groups = knobs(self.scenario, now) if offer != self._offered else self._groups
        strange = [
            (knob, stand[knob.path])
            for group in groups.values()
            for knob in group
            if type(stand.get(knob.path)) is type(knob.choices[0])
            and stand[knob.path] not in {*knob.choices, *self._more.get(knob.path, ())}
        ]
        for knob, value in strange:
            self._more.setdefault(knob.path, set()).add(value)
        if strange or offer != self._offered:
            self._offered, self._groups = offer, groups
            self.knobs = {
                name: [knob.described(self._more.get(knob.path, ())) for knob in group]
                for name, group in groups.items()
            }
        return {"values": stand, "fixed": fixed(self.scenario, now, self.setting)}

    # -- runs --------------------------------------------------------------------------------------------------------

    def _some(self, what: Asked) -> tuple[Comparison, dict[str, float]]:
        """As much of it as the budget allows, and how long each approach took, µs."""
        usual = fmean(self._paces.values()) if self._paces else 1.0
        some = affordable(what.scenario, what.rows, [self._paces.get(row.name, usual) for row in what.rows])
        runs, took = {}, {}
        for row in what.rows:
            begun = thread_time()
            runs[row.name] = simulate(some, row)
            took[row.name] = (thread_time() - begun) * 1e6
        return Comparison(some, (runs,)), took

    def _learn(self, took: Mapping[str, float], total: float) -> None:
        """Correct the estimates by what a preview really took; figures are everybody's."""
        if not self.comparison or not took:
            return
        number = asked(self.comparison.scenario)
        figures = max(0.0, total - sum(took.values()) - DRAWING) / len(took)
        assert self._drawn
        for (name, each), expected in zip(took.items(), work(self.comparison.scenario, self._drawn.rows), strict=True):
            pace = (each + figures) / (expected * number)
            self._paces[name] = (self._paces.get(name, pace) + pace) / 2

    def settle(self, wait: bool = False) -> None:
        """Simulate all that the setting asks for, and show it.

        In a notebook it is done beside other work, and dropped when the setting changes.

        Args:
            wait: until it is done.
        """
        what = self._asked
        if what is None or self.running or (what is self._drawn and self.shown["level"] == "full"):
            return
        try:
            loop = None if wait else asyncio.get_running_loop()
        except RuntimeError:  # there is none
            loop = None
        if loop:
            self.running = True
            self._task = loop.create_task(self._settle_beside(what, self._question))
            return
        try:
            self._show(what, _runs(what, Clock))
        except Exception as error:
            self._say(_wrong(error))

    async def _settle_beside(self, what: Asked, question: int) -> None:
        """The full run in a thread of its own: whatever is asked for meanwhile is answered at once, and ends it."""

        def look() -> None:
            if question != self._question:
                raise Dropped

        try:
            result = await asyncio.to_thread(_runs, what, lambda: Watched(lambda: question != self._question))
            width = None
            while width != self.width:  # the browser may have another one meanwhile
                width = self.width
                answer = await asyncio.to_thread(self._answer, what, result, width, look)
            look()
            self._put(what, result, answer)
        except Dropped:
            pass
        except Exception as error:
            if question == self._question:
                self._say(_wrong(error))
        finally:
            if question == self._question:
                self.running = False

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _say(self, problems: Iterable[str], stand: Mapping[str, Any] | None = None) -> None:
        """Say what is wrong; the last picture stays."""
        if not stand and self._asked:
            stand = self._asked.stand
        elif not stand:
            names = [] if misshapen(self.setting["approaches"]) else self._names()
            stand = {"names": inked(names), "refused": []}
        self.shown = {**self.shown, "setting": self.setting, **stand, "problems": list(problems)}

    def _show(self, what: Asked, result: Comparison) -> None:
        self._put(what, result, self._answer(what, result, self.width, lambda: None))

    def _put(self, what: Asked, result: Comparison, answer: Mapping[str, Any]) -> None:
        self.comparison, self._drawn = result, what
        self.shown = {"setting": self.setting, "problems": [], **what.stand, **answer}

    def _answer(self, what: Asked, result: Comparison, width: int, look: Callable[[], None]) -> dict[str, Any]:
        """Pictures and words; `look` is called before each, and may raise."""
        now = level(result, what.scenario)
        full = now == "full"
        parts: dict[str, Callable[[], Any]] = {
            "basis": lambda: basis(result, what.scenario),
            "verdict": lambda: result.verdict,
            "warnings": lambda: list(result.warnings) if full else [],
        }
        views = [view for view in VIEWS if full or view == self.looking]
        pictures, words = {}, {}
        for view in views:
            look()
            pictures[view] = _picture(view, what, result, width)
        for name, part in parts.items():
            look()
            words[name] = part()
        return {"level": now, "pictures": pictures, **words}

    def _picture(self, view: str) -> str:
        assert self.comparison
        assert self._drawn
        return _picture(view, self._drawn, self.comparison, self.width)

    @traitlets.observe("width")
    def _draw_again(self, change: Any) -> None:
        if self.comparison:
            self.shown = {**self.shown, "pictures": {view: self._picture(view) for view in self.shown["pictures"]}}

    @traitlets.observe("looking")
    def _draw_more(self, change: Any) -> None:
        if self.comparison and self.looking not in self.shown["pictures"]:
            pictures = {**self.shown["pictures"], self.looking: self._picture(self.looking)}
            self.shown = {**self.shown, "pictures": pictures}

    def _hear(self, widget: Any, said: Any, buffers: Any) -> None:
        """What the browser asks for besides settings."""
        if said == "settle":
            self.settle()
        elif said == "code":
            self.code = self.as_code()

    def as_code(self) -> dict[str, str]:
        """What is on screen as ``python`` and as ``toml``, all of the scenario even while a preview shows a part."""
        if not (what := self._drawn):
            return {"python": "", "toml": ""}
        return {"python": python(what.scenario, what.rows, what.preset), "toml": toml(what.scenario, what.rows)}

    def lasting(self) -> tuple[str, str]:
        """The picture, the conclusion and the figures, and what is wrong."""
        names = [name for name, *_ in self.shown["names"]]
        refused = [f"{name}: {why}" for name, why in zip(names, self.shown["refused"], strict=False) if why]
        wrong = [*self.shown["problems"], *refused]
        if self.shown["problems"] and self.comparison:
            wrong.append("The picture shows the last setting that was simulated.")
        notes = "".join(f"<p>{escape(line)}</p>" for line in wrong)
        if not (result := self.comparison) or not self._drawn:
            return notes, "\n\n".join(wrong)
        said = [result.verdict, basis(result, self._drawn.scenario)]
        html = [
            notes,
            still(self._picture("waterfall"), summary(result.samples)),
            *(f"<p>{escape(line)}</p>" for line in said),
            table(result.samples)._repr_html_(),
        ]
        words = [*wrong, repr(breakdown_sheet(result.samples)), *said, repr(table(result.samples))]
        return "".join(html), "\n\n".join(words)


def _runs(what: Asked, clock: Callable[[], Clock]) -> Comparison:
    """All of it."""
    return Comparison(what.scenario, ({row.name: observed(what.scenario, row, clock()) for row in what.rows},))


def _picture(view: str, what: Asked, result: Comparison, width: int) -> str:
    return drawn(view, result, width, state(result, what.scenario, what.stand["values"]["costs"]))


def _wrong(error: Exception) -> Iterable[str]:
    if isinstance(error, InvalidInput):
        return error.problems
    return [f"This setting could not be simulated: {type(error).__name__}: {error}"]
