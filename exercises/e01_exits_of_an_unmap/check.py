"""Problems of e01, their answers by simulation, and the usual mistakes."""

from collections.abc import Callable
from random import Random
from typing import ClassVar

import attrs

from smmu_lab.learn import Problem
from smmu_lab.scenario import Scenario, Smmu, Unmaps, unmap_batches
from smmu_lab.sim import simulate

APPROACHES = "qemu-today", "batched", "native-queue", "short-path", "vcmdq"


@attrs.frozen(repr=False)
class Unmap(Problem):
    """One strict unmap on one vCPU; all queues are idle."""

    question: ClassVar[str] = "This guest unmaps once. How often does it exit to the VMM, how often to the kernel only?"
    form: ClassVar[str] = '{"vmm": 0, "kernel": 0}'

    approach: str
    pages: int
    ril: bool
    ats_devices: int


def make(rng: Random) -> Unmap:
    """Draw a problem; the sizes around the driver's thresholds come often."""
    return Unmap(
        approach=rng.choice(APPROACHES),
        pages=rng.choice((1, 64, 65, 128, 511, 512, rng.randint(2, 511), rng.randint(512, 2048))),
        ril=rng.choice((False, False, True)),
        ats_devices=rng.choice((0, 0, 1, 8, 64, 72)),
    )


def solve(problem: Unmap) -> dict[str, int]:
    """Let the simulator count."""
    unmap = Unmaps(pages=problem.pages, ats_devices=problem.ats_devices, ops=1)
    counts = simulate(Scenario(workload=unmap, smmu=Smmu(ril=problem.ril, sids=128)), problem.approach).counts
    return {"vmm": counts.exits_vmm, "kernel": counts.exits_kernel}


def tlbis(problem: Unmap) -> int:
    """TLBI commands of the unmap."""
    return unmap_batches(problem.pages, 4096, problem.ril, 0)[0].tlbi


def lists(commands: int) -> int:
    """Lists of at most 64 commands."""
    return -(-commands // 64)


def exits(
    problem: Unmap, *, tlbi: int | None = None, doorbells: int | None = None, syncs: int | None = None
) -> dict[str, int]:
    """The answer of somebody who counts all right but what is given."""
    if tlbi is None:
        tlbi = tlbis(problem)
    if doorbells is None:
        doorbells = lists(tlbi) + lists(problem.ats_devices)
    if syncs is None:
        syncs = 1 + (problem.ats_devices > 0)
    if problem.approach == "vcmdq":
        return {"vmm": 0, "kernel": 0}
    if problem.approach == "short-path":
        return {"vmm": 0, "kernel": doorbells}
    return {"vmm": doorbells + syncs, "kernel": 0}


def every_command_exits(problem: Unmap) -> dict[str, int]:
    """Writing a command is a store to the guest's own memory: nobody notices.

    Only the write of PROD tells the consumer to look, once for a whole list.
    """
    return exits(problem, doorbells=tlbis(problem) + problem.ats_devices)


def ioctls_counted(problem: Unmap) -> dict[str, int]:
    """You counted ioctls: calls of the VMM into the host's kernel.

    An exit is the guest leaving its CPU. However many ioctls the VMM makes then, the guest has left once.
    """
    if problem.approach == "qemu-today":
        return exits(problem, doorbells=tlbis(problem) + problem.ats_devices, syncs=0)
    return exits(problem, syncs=0)


def cons_read_forgotten(problem: Unmap) -> dict[str, int]:
    """These are the doorbells alone. How does the guest learn that its CMD_SYNC is done?

    Look at the completion of the approach: is reading CONS free?
    """
    return exits(problem, syncs=0)


def one_sync_with_ats(problem: Unmap) -> dict[str, int]:
    """With ATS the driver waits twice: the ATC_INVs may only follow when the TLBIs are done.

    Each of these batches ends in a CMD_SYNC of its own.
    """
    return exits(problem, syncs=1)


def atc_in_the_same_batch(problem: Unmap) -> dict[str, int]:
    """You left the ATC_INVs out, or put them in one batch with the TLBIs.

    They are a second batch, with doorbells and a CMD_SYNC of its own.
    """
    return exits(problem, doorbells=lists(tlbis(problem) + problem.ats_devices), syncs=1)


def one_doorbell_per_batch(problem: Unmap) -> dict[str, int]:
    """A batch can take several doorbells: the driver publishes lists of at most 64 commands."""
    return exits(problem, doorbells=1 + (problem.ats_devices > 0))


def full_list_takes_two(problem: Unmap) -> dict[str, int]:
    """A list of exactly 64 is still one list: the driver opens the next with the 65th command.

    The CMD_SYNC does not count towards the 64.
    """
    more = problem.ats_devices // 64 + 1 if problem.ats_devices else 0
    return exits(problem, doorbells=tlbis(problem) // 64 + 1 + more)


def threshold_ignored(problem: Unmap) -> dict[str, int]:
    """How many TLBIs does an unmap of 512 pages and more take without range invalidation?"""
    return exits(problem, tlbi=tlbis(problem) if problem.ril else problem.pages)


def ril_ignored(problem: Unmap) -> dict[str, int]:
    """This guest has range invalidation: a few TLBIs cover all its pages, and fit in one list."""
    return exits(attrs.evolve(problem, ril=False))


def short_path_taken_for_trapped(problem: Unmap) -> dict[str, int]:
    """On the short path the PROD write ends in the kernel, which wakes a worker: the VMM hears nothing of it."""
    return exits(attrs.evolve(problem, approach="qemu-today")) if problem.approach == "short-path" else exits(problem)


def shared_cons_trapped(problem: Unmap) -> dict[str, int]:
    """The doorbells of the short path are right. But its CONS stands on a page that the guest can read."""
    if problem.approach == "short-path":
        return {"vmm": 0, "kernel": exits(attrs.evolve(problem, approach="qemu-today"))["vmm"]}
    return exits(problem)


def vcmdq_taken_for_trapped(problem: Unmap) -> dict[str, int]:
    """A VCMDQ is hardware whose registers the guest has mapped: who could notice its PROD write?"""
    return exits(attrs.evolve(problem, approach="qemu-today")) if problem.approach == "vcmdq" else exits(problem)


def vcmdq_taken_for_short_path(problem: Unmap) -> dict[str, int]:
    """No kernel worker has to be woken for a VCMDQ: the hardware sees the PROD write itself."""
    return exits(attrs.evolve(problem, approach="short-path")) if problem.approach == "vcmdq" else exits(problem)


MISTAKES: tuple[Callable[[Unmap], dict[str, int]], ...] = (
    every_command_exits,
    ioctls_counted,
    cons_read_forgotten,
    one_sync_with_ats,
    atc_in_the_same_batch,
    one_doorbell_per_batch,
    full_list_takes_two,
    threshold_ignored,
    ril_ignored,
    short_path_taken_for_trapped,
    shared_cons_trapped,
    vcmdq_taken_for_trapped,
    vcmdq_taken_for_short_path,
)
"""Each answers as somebody does who makes this mistake; its docstring is the hint."""
