"""The catalogue: an approach is a row of choices that a reviewer can read, not a class hierarchy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self

from smmu_lab.scenario.fields import TEXT, InvalidInput, Settings, one_of, setting, settings, unknown, whole
from smmu_lab.sheet import Sheet


@settings
class Approach(Settings):
    """Who picks up what the guest published, and how the guest learns that it is done.

    Attributes:
        name: key in the catalogue; a variant keeps the name of the row it was made from, with a ``*``.
        title: one line for people.
        queues: what the guest sees: one ``cmdq``, or ``cmdq+vcmdq`` (queue chosen by cpu % vcmdqs).
        vcmdqs: hardware queues of one guest when `queues` has them (QEMU gives 2).
        doorbell: how the PROD write leaves the guest: ``trap-to-vmm`` (the vCPU is blocked while the VMM consumes,
            under its big lock), ``trap-to-kernel`` (light exit, a worker is signalled, the vCPU runs on) or
            ``direct`` (the device page is mapped).
        consumer: who reads the queue: the ``vmm``, a ``kernel-worker`` or ``hardware``.
        handoff: how the VMM passes commands to the kernel: ``none``; ``marshalled`` (v1 patch of 2023: a decoded
            struct per command; with ATS every TLBI and ATC_INV fans out to all devices of the domain);
            ``per-command`` (native array of one); ``array`` (one per consume); ``array-at-sync`` (one per CMD_SYNC);
            ``queue`` (pointer, size, head and tail: the kernel reads the guest's queue).
        host_queue: what executes: the physical ``cmdq``, shared by all guests, or a ``vcmdq``.
        completion: how the guest sees CONS: ``vmm-cons`` (trapped read under the big lock), ``kernel-cons`` (light
            exit), ``shared-cons`` (a mapped page) or ``device-cons`` (a device read).
        unsupported: what happens to a command that the consumer may not run: ``none`` (it deals with every command),
            ``skip`` (CONS advances, never executed), ``stop-and-fix`` (the consumer halts there and resumes at a cost)
            or ``guest-routes`` (the guest's driver takes the queue of `fallback` for it).
        fallback: catalogue key of the approach behind the guest's main queue when `unsupported` is ``guest-routes``.
        host_group: commands the host issues before each of its own CMD_SYNCs; 0 is all that were handed over at once.
        wake: latency of a sleeping kernel worker: ``exponential`` above the low end of the cost ``wake`` with the
            cost's value as mean, or ``constant``.
    """

    where: ClassVar[str] = "approach"
    name: str = setting(TEXT)
    title: str = setting(TEXT)
    queues: str = setting(one_of("cmdq", "cmdq+vcmdq"), default="cmdq")
    vcmdqs: int = setting(whole(0, 128), default=0)
    doorbell: str = setting(one_of("trap-to-vmm", "trap-to-kernel", "direct"))
    consumer: str = setting(one_of("vmm", "kernel-worker", "hardware"))
    handoff: str = setting(
        one_of("none", "marshalled", "per-command", "array", "array-at-sync", "queue"), default="none"
    )
    host_queue: str = setting(one_of("cmdq", "vcmdq"), default="cmdq")
    completion: str = setting(one_of("vmm-cons", "kernel-cons", "shared-cons", "device-cons"))
    unsupported: str = setting(one_of("none", "skip", "stop-and-fix", "guest-routes"), default="none")
    fallback: str = setting(TEXT, default="")
    host_group: int = setting(whole(0, 1 << 19), default=0)
    wake: str = setting(one_of("exponential", "constant"), default="exponential")

    def conflicts(self) -> Iterator[str]:
        """The reasons why this combination cannot exist, one line each."""
        for column, impossible, reason in RULES:
            if impossible(self):
                yield f"approach.{column}: {getattr(self, column)!r} cannot be: {reason}"
        if self.unsupported == "guest-routes":
            if self.fallback not in _ROWS:
                yield unknown("approach.fallback", self.fallback, _ROWS)
            elif _ROWS[self.fallback]["consumer"] == "hardware":
                yield f"approach.fallback: {self.fallback!r} cannot be: its consumer is the hardware that refused"

    def but(self, changes: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """A what-if: the same row with some choices changed. See `Settings.but`.

        >>> approach("short-path").but(completion="kernel-cons").name
        'short-path*'
        >>> approach("batched").but(doorbell="direct")
        Traceback (most recent call last):
        smmu_lab.scenario.fields.InvalidInput: approach.doorbell: 'direct' cannot be: it needs consumer 'hardware': ...
        """
        changed = {**(changes or {}), **more}
        return super().but({"name": self.name.rstrip("*") + "*", **changed})

    @property
    def executes_directly(self) -> bool:
        """The guest's own queue is the hardware's: no exit, no hand-off."""
        return self.consumer == "hardware"

    @property
    def on_metal(self) -> bool:
        """There is no guest: its vCPUs are CPUs of the host, on the physical CMDQ."""
        return self.executes_directly and self.host_queue == "cmdq"


RULES: tuple[tuple[str, Callable[[Approach], bool], str], ...] = (
    (
        "doorbell",
        lambda a: a.doorbell == "direct" and a.consumer != "hardware",
        "it needs consumer 'hardware': nobody else sees a write that does not exit",
    ),
    (
        "doorbell",
        lambda a: a.doorbell == "trap-to-vmm" and a.consumer != "vmm",
        "it needs consumer 'vmm': the vCPU is in the VMM until the queue is consumed",
    ),
    (
        "doorbell",
        lambda a: a.doorbell == "trap-to-kernel" and a.consumer != "kernel-worker",
        "it needs consumer 'kernel-worker': the light exit only signals it",
    ),
    (
        "handoff",
        lambda a: a.consumer == "vmm" and a.handoff == "none",
        "consumer 'vmm' cannot reach the host's queue without an ioctl",
    ),
    (
        "handoff",
        lambda a: a.consumer != "vmm" and a.handoff != "none",
        "only consumer 'vmm' hands commands over by an ioctl",
    ),
    (
        "completion",
        lambda a: a.completion == "device-cons" and a.consumer != "hardware",
        "it needs consumer 'hardware': only its CONS is a device register that the guest can map",
    ),
    (
        "completion",
        lambda a: a.consumer == "hardware" and a.completion != "device-cons",
        "consumer 'hardware' moves its own CONS register: 'device-cons'",
    ),
    (
        "completion",
        lambda a: a.consumer == "vmm" and a.completion == "kernel-cons",
        "the kernel does not know the CONS of consumer 'vmm': 'vmm-cons' or 'shared-cons'",
    ),
    (
        "host_queue",
        lambda a: a.host_queue == "vcmdq" and a.consumer != "hardware",
        "a VCMDQ is filled by its guest: it needs consumer 'hardware'",
    ),
    (
        "queues",
        lambda a: (a.queues == "cmdq+vcmdq") != (a.host_queue == "vcmdq"),
        "the guest sees VCMDQs if and only if host_queue is 'vcmdq'",
    ),
    (
        "unsupported",
        lambda a: a.queues == "cmdq+vcmdq" and a.unsupported != "guest-routes",
        "a VCMDQ takes TLBI_NH_ASID, TLBI_NH_VA, ATC_INV and CMD_SYNC only: 'guest-routes', with a fallback",
    ),
    (
        "unsupported",
        lambda a: a.unsupported == "guest-routes" and a.queues == "cmdq",
        "the guest has no second queue: queues must be 'cmdq+vcmdq'",
    ),
    (
        "unsupported",
        lambda a: a.unsupported == "none" and (a.consumer == "kernel-worker" or a.handoff == "queue"),
        "the VMM does not read the commands: 'skip', or with a kernel worker 'stop-and-fix'",
    ),
    (
        "unsupported",
        lambda a: a.unsupported in ("skip", "stop-and-fix") and a.consumer == "vmm" and a.handoff != "queue",
        "the VMM reads every command and emulates what it must: 'none'",
    ),
    (
        "unsupported",
        lambda a: a.unsupported == "stop-and-fix" and a.consumer != "kernel-worker",
        "it needs consumer 'kernel-worker', which can halt at an entry",
    ),
    (
        "unsupported",
        lambda a: a.on_metal and a.unsupported != "none",
        "the physical CMDQ takes every command: 'none'",
    ),
    (
        "fallback",
        lambda a: a.fallback != "" and a.unsupported != "guest-routes",
        "nothing is routed there: it needs unsupported 'guest-routes'",
    ),
    (
        "vcmdqs",
        lambda a: (a.queues == "cmdq+vcmdq") != (a.vcmdqs > 0),
        "the guest sees VCMDQs if and only if queues is 'cmdq+vcmdq'",
    ),
    (
        "host_group",
        lambda a: a.host_group != 0 and a.executes_directly,
        "the guest's own CMD_SYNCs execute: no host groups, so 0",
    ),
)

_GROUP = 63
"""CMDQ_BATCH_ENTRIES - 1, then a CMD_SYNC: arm_vsmmu_cache_invalidate, Linux 7.2 arm-smmu-v3-iommufd.c."""

_TRAPPED = {"doorbell": "trap-to-vmm", "consumer": "vmm", "completion": "vmm-cons"}
_WORKER = {"doorbell": "trap-to-kernel", "consumer": "kernel-worker", "unsupported": "stop-and-fix"}
_DEVICE = {"doorbell": "direct", "consumer": "hardware", "completion": "device-cons"}
_VCMDQ = {
    "queues": "cmdq+vcmdq",
    "vcmdqs": 2,
    "host_queue": "vcmdq",
    "unsupported": "guest-routes",
    "fallback": "qemu-today",
}

_ROWS: dict[str, dict[str, Any]] = {
    "per-command": {
        "title": "v1 patch of 2023: decoded, re-marshalled, one ioctl each",
        **_TRAPPED,
        "handoff": "marshalled",
    },
    "qemu-today": {
        "title": "QEMU of 2026: native array of one command per ioctl",
        **_TRAPPED,
        "handoff": "per-command",
    },
    "batched": {
        "title": "one array per doorbell (QEMU RFC v3, 2025)",
        **_TRAPPED,
        "handoff": "array",
        "host_group": _GROUP,
    },
    "batched-at-sync": {
        "title": "one array per CMD_SYNC",
        **_TRAPPED,
        "handoff": "array-at-sync",
        "host_group": _GROUP,
    },
    "native-queue": {
        "title": "the kernel reads the guest's queue: pointer, size, head, tail (v2 patch, 2023)",
        **_TRAPPED,
        "handoff": "queue",
        "unsupported": "skip",
    },
    "short-path": {
        "title": "kernel worker woken by the doorbell, CONS on a shared page",
        **_WORKER,
        "completion": "shared-cons",
    },
    "short-path-trapped-cons": {
        "title": "kernel worker woken by the doorbell, each CONS read exits",
        **_WORKER,
        "completion": "kernel-cons",
    },
    "vcmdq": {
        "title": "hardware runs the guest's own queues (NVIDIA VCMDQ), the rest traps",
        **_DEVICE,
        **_VCMDQ,
    },
    "bare-metal": {
        "title": "no guest: host CPUs on the physical CMDQ",
        **_DEVICE,
    },
}


class Catalogue(tuple[Approach, ...]):
    """Approaches, printed as a table."""

    __slots__ = ()

    def sheet(self) -> Sheet:
        """One row per approach, one column per choice."""
        head = ("approach", "doorbell", "consumer", "handoff", "completion", "unsupported", "what it is")
        rows = [
            (
                row.name,
                row.doorbell,
                row.consumer,
                row.handoff,
                row.completion,
                row.unsupported,
                row.title,
            )
            for row in self
        ]
        return Sheet(head, rows, left=head)

    def __repr__(self) -> str:
        return repr(self.sheet())

    def _repr_html_(self) -> str:
        return self.sheet()._repr_html_()


def approaches() -> Catalogue:
    """The catalogue, in the order of the mail: from one ioctl per command to no exit at all."""
    return Catalogue(approach(name) for name in _ROWS)


def approach(name: str) -> Approach:
    """A row of the catalogue.

    Raises:
        InvalidInput: there is no such row; the message suggests the nearest.
    """
    if type(name) is not str or name not in _ROWS:
        raise InvalidInput([unknown(f"approach {name!r}", str(name), _ROWS)])
    return _row(name)


@functools.cache
def _row(name: str) -> Approach:
    return Approach(name=name, **_ROWS[name])
