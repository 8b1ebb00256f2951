"""The physical SMMU: one command engine, and what its queues have outstanding."""

from __future__ import annotations

from smmu_lab.scenario import Costs
from smmu_lab.sim.driver import Work


class Feed:
    """What one hardware queue has outstanding: CMD_SYNCs complete in order, and after the ATC_INVs before them."""

    __slots__ = ("answered", "completed")

    def __init__(self) -> None:
        self.answered = 0
        self.completed = 0


class Engine:
    """The command engine: it runs the entries of all its queues one after another, in order of arrival.

    A CMD_SYNC keeps the engine busy for `sync_occ`; its completion is seen `t_sync - sync_occ` later, while the engine
    goes on. So n CPUs can overlap their waits: the engine's occupancy bounds the rate, not the latency.
    """

    def __init__(self, costs: Costs) -> None:
        self.free = 0
        self.t_tlbi, self.t_atc, self.atc_rtt = costs.t_tlbi, costs.t_atc, costs.atc_rtt
        self.occupancy = costs.sync_occ
        self.latency = costs.t_sync - costs.sync_occ

    def run(self, feed: Feed, arrival: int, work: Work) -> tuple[int, int]:
        """Run the entries of one list; calls come in the order of `arrival`.

        Returns:
            When the first entry starts, and when the last one is complete as the queue's CONS tells it, ns.
        """
        start = arrival if arrival > self.free else self.free
        end = start + work.tlbi * self.t_tlbi
        if work.atc:
            end += work.atc * self.t_atc
            feed.answered = end - work.tail * self.t_tlbi + self.atc_rtt
        if not work.sync:
            self.free = end
            return start, end
        self.free = end = end + self.occupancy
        done = max(end, feed.answered) + self.latency
        feed.completed = done = max(done, feed.completed)
        return start, done

    def alone(self, work: Work) -> int:
        """Time of a list with its CMD_SYNC on an idle engine, ns."""
        issued = work.tlbi * self.t_tlbi + work.atc * self.t_atc
        answer = self.atc_rtt - work.tail * self.t_tlbi if work.atc else 0
        return issued + max(self.occupancy, answer) + self.latency
