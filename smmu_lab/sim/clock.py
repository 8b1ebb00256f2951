"""Time: integer nanoseconds, turns within one instant, named random streams.

simpy orders the events of one instant by a priority. A `turn` uses it for the house's tie rule: at one instant the
order is (what is done, guest, vCPU), never how many events somebody needed to get there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import simpy

NOTIFY, READ_CONS, SUBMIT, PUBLISH, ALLOCATE = range(5)
"""What is done at an instant, in the order in which one instant does it."""


class Turn(simpy.Event):
    """An event at an absolute time, with its place among the events of that time."""

    def __init__(self, env: simpy.Environment, time: int, order: int) -> None:
        self.env = env  # as simpy's own Timeout does, without Event.__init__
        self.callbacks = []
        self._ok, self._value = True, None
        env.schedule(self, order, time - env.now)  # type: ignore[arg-type]  # any integer orders


class Clock:
    """The simulation's time, and a count of the events it took, by cause."""

    def __init__(self) -> None:
        self.env = simpy.Environment()
        self.peek = self.env.peek
        self.events: Counter[str] = Counter()
        self.trail: list[tuple[Any, ...]] | None = None  # see `Clock.note`

    def turn(self, time: int, what: int, party: int, cause: str) -> Turn:
        """The event at which `party` may do `what` at `time`.

        A caller that only moves on in time may do without when ``peek() > time``: nobody else acts before it.
        """
        self.events[cause] += 1
        return Turn(self.env, time, 2 + (what << 32) + party)

    @property
    def now(self) -> int:
        """The time, ns."""
        return int(self.env.now)

    def note(self, *step: Any) -> None:
        """Leave a step in the trail, if there is one.

        A step is (what, whose queue, ...), with times in ns:

        - ``issued``, queue, vCPU's party, `Ticket`: a list is in the queue, its entries written at ``ticket.written``;
        - ``published``, queue, when, `Group`: PROD is written;
        - ``host``, queue, when, end, `Work`: the host issues a list for it, and has seen the end of its CMD_SYNC;
        - ``engine``, queue, number of the SMMU, start, done: the same list there;
        - ``kernel``, queue, when, end: the host's kernel works for it: ioctl, copy, rewrite;
        - ``read``, vCPU's party, when, when the VMM's lock is granted, end: a trapped read of CONS;
        - ``ran``, queue, start, done, `Ticket`: the hardware has run a list of its own queue;
        - ``stored``, queue, when, CONS: CONS moves;
        - ``seen``, queue, when, `Ticket`: the vCPU has seen the end of its CMD_SYNC, visible from ``ticket.visible``.

        A queue is (guest, number in the guest); the host's own is ``()``.
        """
        if self.trail is not None:
            self.trail.append(step)

    def signal(self, cause: str) -> simpy.Event:
        """An event that somebody else will trigger."""
        self.events[cause] += 1
        return self.env.event()


def stream(seed: int, *name: object) -> random.Random:
    """The random stream of this name: equal names give equal bits, on every platform and under every approach."""
    return random.Random("/".join(map(str, (seed, *name))))


def exponential(rng: random.Random, mean: int) -> Iterator[int]:
    """Exponentially distributed whole numbers.

    Von Neumann's comparison method (1951) on 32-bit integers: no logarithm, so no difference between math libraries.

    >>> from itertools import islice
    >>> list(islice(exponential(stream(1, "doc"), 1000), 4))
    [281, 1045, 930, 1799]
    """
    bits = rng.getrandbits
    while True:
        whole = 0
        while True:
            first = last = bits(32)
            odd = True
            while (drawn := bits(32)) < last:
                last = drawn
                odd = not odd
            if odd:
                break
            whole += 1
        yield ((whole << 32) + first) * mean >> 32
