"""The physical SMMU: its command engine, first come first served or in turns, and what each queue has outstanding."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smmu_lab.scenario import Costs
from smmu_lab.sim.clock import NOTIFY, Clock
from smmu_lab.sim.driver import Work

if TYPE_CHECKING:
    from smmu_lab.sim.queue import Group, Ticket


class Feed:
    """What one hardware queue has outstanding: CMD_SYNCs complete in order, and after the ATC_INVs before them.

    Args:
        finish: called for each list with its ticket, when its first entry started, and when the last one is complete as
            the queue's CONS tells it.
    """

    __slots__ = ("answered", "backlog", "completed", "finish", "number")

    number: int  # in the order of turns

    def __init__(self, finish: Callable[[Ticket, int, int], None]) -> None:
        self.finish = finish
        self.answered = 0
        self.completed = 0
        self.backlog: deque[Turns] = deque()


class Fifo:
    """The command engine: it runs the lists of all its queues one after another, in order of arrival.

    A CMD_SYNC keeps the engine busy for `sync_occ`; its completion is seen `t_sync - sync_occ` later, while the engine
    goes on. So n CPUs can overlap their waits: the engine's occupancy bounds the rate, not the latency.
    """

    def __init__(self, costs: Costs) -> None:
        self.free = 0
        self.t_tlbi, self.t_atc, self.atc_rtt = costs.t_tlbi, costs.t_atc, costs.atc_rtt
        self.occupancy = costs.sync_occ
        self.latency = costs.t_sync - costs.sync_occ

    def post(self, feed: Feed, arrival: int, group: Group) -> None:
        """The PROD write of a group arrives; calls come in the order of `arrival`."""
        for ticket in group.tickets:
            start, done = self.run(feed, arrival, ticket.work)
            feed.finish(ticket, start, done)

    def run(self, feed: Feed, arrival: int, work: Work) -> tuple[int, int]:
        """Run the entries of one list.

        Returns:
            When the first entry starts, and when the last one is complete as the queue's CONS tells it, ns.
        """
        start = arrival if arrival > self.free else self.free
        end = start + work.tlbi * self.t_tlbi
        if work.atc:
            end += work.atc * self.t_atc
            feed.answered = end - work.tail * self.t_tlbi + self.atc_rtt + work.late
        if work.sync:
            end += self.occupancy
        self.free = end
        return start, self.retire(feed, end, work.sync)

    def retire(self, feed: Feed, end: int, sync: int) -> int:
        """When a list is complete that the engine is through with at `end`: CONS moves in order."""
        done = end
        if sync:
            done = (end if end > feed.answered else feed.answered) + self.latency
        feed.completed = done = done if done > feed.completed else feed.completed
        return done

    def alone(self, work: Work) -> int:
        """Time of a list with its CMD_SYNC on an idle engine, ns."""
        issued = work.tlbi * self.t_tlbi
        sync = self.occupancy
        if work.atc:
            issued += work.atc * self.t_atc
            sync = max(sync, self.atc_rtt + work.late - work.tail * self.t_tlbi)
        return issued + sync + self.latency

    def advance(self, until: int) -> None:
        """Nothing is left to be worked out: every end is known on arrival."""


class Turns:
    """A list in a queue that is served in turns: runs of [cost of a command, how many are left, until the answer]."""

    __slots__ = ("feed", "left", "runs", "start", "ticket", "time")

    def __init__(self, feed: Feed, ticket: Ticket, runs: list[list[Any]], left: int, time: int) -> None:
        self.feed = feed
        self.ticket = ticket
        self.start = -1
        self.runs = [run.copy() for run in runs]
        self.left = left  # commands of all runs
        self.time = time  # of all that are left, ns

    def first(self, commands: int) -> int:
        """Time on the engine of the next so many commands, ns."""
        if commands == self.left:
            return self.time
        total = 0
        for cost, count, _ in self.runs:
            some = min(commands, count)
            total += some * cost
            commands -= some
        return total


class RoundRobin(Fifo):
    """The command engine takes one command of each queue in turn.

    It is served lazily: at each arrival it is advanced to that time by arithmetic, and predicts when the next list will
    end; an arrival that overtakes a prediction makes it void. A command that arrives at the instant of a choice takes
    part in it.
    """

    def __init__(self, clock: Clock, costs: Costs) -> None:
        super().__init__(costs)
        self.clock = clock
        self.feeds: list[Feed] = []
        self.heads: list[Turns] = []  # the first list of each queue that has one, in the order of turns
        self.last = -1  # whose turn it was
        self.predicted = -1
        self.known: dict[Work, tuple[list[list[Any]], int, int]] = {}

    def add(self, feed: Feed) -> None:
        """One more queue, the last in the order of turns."""
        feed.number = len(self.feeds)
        self.feeds.append(feed)

    def post(self, feed: Feed, arrival: int, group: Group) -> None:
        """The PROD write of a group arrives; calls come in the order of `arrival`."""
        if self.heads:
            self.advance(arrival)
        if not self.heads and self.free < arrival:
            self.free = arrival
        waits = bool(feed.backlog)
        for ticket in group.tickets:
            feed.backlog.append(Turns(feed, ticket, *self._runs(ticket.work)))
        if waits:
            return
        self._line_up(feed)
        self._predict()

    def _runs(self, work: Work) -> tuple[list[list[Any]], int, int]:
        """The runs of a list, how many commands they are, and their time."""
        if work not in self.known:
            tail = work.tail if work.atc else 0
            all_runs: tuple[list[Any], ...] = (
                [self.t_tlbi, work.tlbi - tail, None],
                [self.t_atc, work.atc, self.atc_rtt + work.late],
                [self.t_tlbi, tail, None],
                [0, work.bad >= 0 and not work.fixed, None],
                [self.occupancy, work.sync, None],
            )
            runs = [run for run in all_runs if run[1]] or [[0, 1, None]]
            self.known[work] = runs, sum(run[1] for run in runs), sum(run[0] * run[1] for run in runs)
        return self.known[work]

    def _line_up(self, feed: Feed) -> None:
        """The first list of a queue gets into the order of turns."""
        if not self.heads:
            self.heads.append(feed.backlog[0])
            return
        first, number = self.last + 1, len(self.feeds)
        bisect.insort(self.heads, feed.backlog[0], key=lambda head: (head.feed.number - first) % number)

    def advance(self, until: int) -> None:
        """Make every choice that comes before `until`."""
        heads = self.heads
        while heads and self.free < until:
            if len(heads) == 1 and self._run_through(until):
                continue
            spare = until - self.free
            turn = sum([head.runs[0][0] for head in heads])
            rounds = min([head.runs[0][1] for head in heads]) - 1
            if turn * rounds > spare:
                rounds = spare // turn
            if rounds > 0:
                free = self.free
                for head in heads:
                    if head.start < 0:
                        head.start = free
                    run = head.runs[0]
                    free += run[0]
                    run[1] -= rounds
                    head.left -= rounds
                    head.time -= rounds * run[0]
                self.free += rounds * turn
                self.last = heads[-1].feed.number
            for _ in range(len(heads)):
                if self.free >= until:
                    return
                if self._take():
                    break

    def _run_through(self, until: int) -> bool:
        """The only list runs to its end; not if a choice would come at `until` or later."""
        head = self.heads[0]
        if self.free + head.time - head.runs[-1][0] >= until:
            return False
        self.heads.clear()
        if head.start < 0:
            head.start = self.free
        for cost, count, rtt in head.runs:
            self.free += cost * count
            if rtt is not None:
                head.feed.answered = self.free + rtt
        self.last = head.feed.number
        self._end(head)
        return True

    def _take(self) -> bool:
        """One command of the queue whose turn it is; whether it was the last of its list."""
        head = self.heads.pop(0)
        feed = head.feed
        self.last = feed.number
        if head.start < 0:
            head.start = self.free
        run = head.runs[0]
        self.free += run[0]
        run[1] -= 1
        head.left -= 1
        head.time -= run[0]
        if not run[1]:
            if run[2] is not None:
                feed.answered = self.free + run[2]
            head.runs.pop(0)
        if head.runs:
            self.heads.append(head)
            return False
        self._end(head)
        return True

    def _end(self, head: Turns) -> None:
        """A list is through: the next one of its queue gets into its place."""
        feed, ticket = head.feed, head.ticket
        feed.backlog.popleft()
        if feed.backlog:
            self.heads.append(feed.backlog[0])
        feed.finish(ticket, head.start, self.retire(feed, self.free, ticket.work.sync))

    def _next_end(self) -> int:
        """When the next list ends if nothing arrives, or -1: that with fewest commands left, nearest turn first."""
        heads = self.heads
        if not heads:
            return -1
        if len(heads) == 1:
            return self.free + heads[0].time
        fewest = min([head.left for head in heads])
        end, others = self.free, 0
        for head in heads:
            end += head.first(fewest - others)
            if head.left == fewest:
                others = 1
        return end

    def _predict(self) -> None:
        end = self._next_end()
        if end not in (-1, self.predicted):
            turn = self.clock.turn(end, NOTIFY, 0, "arbiter")
            turn.callbacks.append(self._arrive)
        self.predicted = end

    def _arrive(self, turn: Any) -> None:
        now = self.clock.now
        if now == self.predicted:
            self.predicted = -1
            self.advance(now)
            if self._next_end() == now:
                self.advance(now + 1)  # commands that take no time
            self._predict()
