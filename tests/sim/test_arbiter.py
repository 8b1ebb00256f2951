"""Round-robin arbitration served by arithmetic gives what a loop over single commands gives."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.scenario import costs
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.driver import Work
from smmu_lab.sim.queue import Group, Ticket
from smmu_lab.sim.smmu import Feed, RoundRobin


@st.composite
def lists(draw):
    """A list for a queue: TLBIs, ATC_INVs, TLBIs again, perhaps a CMD_SYNC; at least one command."""
    tlbi, atc, sync = draw(st.sampled_from((0, 1, 3, 8, 64))), draw(st.sampled_from((0, 0, 2))), draw(st.integers(0, 1))
    tail = draw(st.integers(0, tlbi)) if atc else tlbi
    return Work(tlbi, atc, 0, 0, sync if tlbi + atc else 1, tlbi + atc + 1, tail)


def one_by_one(c, queues, arrivals):
    """A list's start and end, command by command: after each, the next queue in turn that has one."""
    waiting = [deque() for _ in range(queues)]
    answered, completed = [0] * queues, [0] * queues
    ended = {}
    t, last, coming = 0, -1, deque(arrivals)
    while coming or any(waiting):
        if not any(waiting):
            t = max(t, coming[0][0])
        while coming and coming[0][0] <= t:
            _, queue, work, number = coming.popleft()
            tail = work.tail if work.atc else 0
            commands = "T" * (work.tlbi - tail) + "A" * work.atc + "T" * tail + "S" * work.sync
            waiting[queue].append([commands, number, None])
        last = next(k % queues for k in range(last + 1, last + 1 + queues) if waiting[k % queues])
        first = waiting[last][0]
        command, first[0] = first[0][0], first[0][1:]
        if first[2] is None:
            first[2] = t
        t += {"T": c.t_tlbi, "A": c.t_atc, "S": c.sync_occ}[command]
        if command == "A":
            answered[last] = t + c.atc_rtt
        if not first[0]:
            waiting[last].popleft()
            end = max(t, answered[last]) + c.t_sync - c.sync_occ if command == "S" else t
            done = completed[last] = max(end, completed[last])
            ended[first[1]] = first[2], done
    return ended


@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(st.sampled_from((0, 1, 50, 80, 300, 3000)), st.integers(0, 4), lists()), min_size=1, max_size=40
    ),
    st.sampled_from((0, 1, 80)),
)
def test_the_arbiter_by_arithmetic_is_the_loop_over_commands(queues, steps, t_tlbi):
    c = costs("grace").but(t_tlbi=t_tlbi)
    clock = Clock()
    engine = RoundRobin(clock, c)
    ended = {}
    feeds = [Feed(lambda ticket, start, done: ended.__setitem__(ticket.end, (start, done))) for _ in range(queues)]
    for feed in feeds:
        engine.add(feed)
    arrivals, t = [], 0
    for number, (gap, queue, work) in enumerate(steps):
        t += gap
        arrivals.append((t, queue % queues, work, number))

    def post():
        for t, queue, work, number in arrivals:
            if clock.now < t:
                yield clock.env.timeout(t - clock.now)
            engine.post(feeds[queue], t, Group(Ticket(work, number, 0, 0)))

    clock.env.process(post())
    clock.env.run()
    if t_tlbi:
        assert ended == one_by_one(c, queues, arrivals)
    assert len(ended) == len(arrivals)
