"""The textbook's virtio-iommu: MAP and UNMAP requests, in a ring instead of a vSMMU's command queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import simpy

from smmu_lab.scenario import Approach
from smmu_lab.sim.textbook_driver import Steps, written_out
from smmu_lab.sim.textbook_thread import Feed

if TYPE_CHECKING:
    from smmu_lab.sim.textbook_guest import Guest


class Request:
    """MAP or UNMAP of a vCPU's domain; or BAD, which nobody knows. `struck`: by the scenario's fault."""

    def __init__(self, env: simpy.Environment, vcpu: int, name: str, pages: int, struck: bool) -> None:
        self.vcpu, self.name, self.pages, self.struck, self.done = vcpu, name, pages, struck, env.event()


class Ring:
    """A request ring, its driver, and who serves it."""

    def __init__(self, guest: Guest, row: Approach) -> None:
        self.guest, self.row, self.host, self.env, self.costs = guest, row, guest.host, guest.env, guest.costs
        self.lock = simpy.Resource(self.env)  # request_lock of the driver
        self.of = guest.number, next(guest.numbers)
        if row.has_worker:
            self.requests = Feed(guest.worker(row, self.of[1]), self.serve)

    def request(self, vcpu: int, name: str, pages: int, struck: bool) -> Steps:
        """Add a request to the ring, kick, and wait; all of it, or all but the sleep, under the driver's lock."""
        request = Request(self.env, vcpu, name, pages, struck)
        with self.lock.request() as lock:
            yield lock
            yield self.env.timeout(self.costs.vq_add)
            yield from self.kick(request)
            if self.row.completion == "used-ring-poll":
                yield request.done
                yield self.env.timeout(self.costs.cons_shared)
        if self.row.completion == "used-ring-irq":
            interrupt = yield request.done
            yield interrupt

    def kick(self, request: Request) -> Steps:
        """Who serves the ring is in the VMM, in this exit, or a worker that may be at it already."""
        if self.row.consumer == "vmm":
            yield from self.guest.vmm.exit(self.serve([request]))
            return
        if self.row.has_worker:
            thread = self.requests.thread
            self.requests.capture([request])
            if self.row.kicks == "unless-running":
                if thread.serving is self.requests:
                    return
                if thread.looking:
                    self.requests.flag()
                    return
        self.host.counts["exits_kernel"] += 1
        yield self.env.timeout(self.costs.exit_kernel)
        if self.row.has_worker:
            yield self.env.timeout(self.costs.sig)
            self.requests.flag()
        else:
            yield from self.serve([request])

    def serve(self, requests: list[Request]) -> Steps:
        """Take requests; the host has nothing to do for one that is BAD, or of a domain of emulated devices."""
        for request in requests:
            yield self.env.timeout(self.costs.vq_take)
            if request.name != "BAD" and self.host.scenario.reaches(self.guest.number, request.vcpu, on_metal=True):
                yield from self.host_work(request)
            if self.row.completion == "used-ring-irq":
                self.host.counts["interrupts"] += 1
                request.done.succeed(self.env.timeout(self.costs.lpi))
            else:
                request.done.succeed()

    def host_work(self, request: Request) -> Steps:
        """Map; or unmap, and invalidate on each SMMU of the domain. The VMM needs an ioctl for it."""
        costs, scenario = self.costs, self.host.scenario
        if self.row.consumer == "vmm":
            yield from self.host.ioctl()
        if request.name == "MAP":
            yield self.env.timeout(costs.host_map)
            yield self.env.timeout(request.pages * costs.pin)
            return
        yield self.env.timeout(costs.host_unmap)
        yield self.env.timeout(request.pages * costs.unpin)
        batches = scenario.batches(self.guest.number, request.vcpu, request.pages)
        for batch in scenario.fault.strike(batches, costs) if request.struck else batches:
            commands = written_out(self.env, batch, (batch.instance,), self.guest.load.stall)
            yield from self.host.issue(batch.instance, commands, self, ignore=True)
