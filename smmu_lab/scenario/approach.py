"""The catalogue: an approach is a row of choices that a reviewer can read, not a class hierarchy."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

from smmu_lab.scenario.fields import (
    DURATION,
    TEXT,
    InvalidInput,
    Kind,
    Settings,
    invalid,
    one_of,
    setting,
    settings,
    unknown,
    whole,
)
from smmu_lab.sheet import Sheet


def _consumer(value: Any) -> Any:
    return value if callable(value) else _CONSUMER.read(value)


_CONSUMER = one_of("vmm", "kernel-caller", "kernel-worker", "hardware")
CONSUMER = Kind(
    f"{_CONSUMER.valid}, or a generator function worker(queue, doorbell, host)", _consumer, _CONSUMER.options
)


@settings
class Approach(Settings):
    """Who picks up what the guest published, and how the guest learns that it is done.

    Attributes:
        name: key in the catalogue; a variant keeps the name of the row it was made from, with a ``*``.
        title: one line for people.
        front: what the guest's driver says: ``smmu-commands``, or ``virtio-iommu``: MAP and UNMAP requests, and no
            nesting (the host maps and unmaps).
        queues: what the guest sees: one ``cmdq``; ``cmdq+vcmdq`` (queue chosen by cpu % vcmdqs); an ``ecmdq`` per CPU;
            a ``virtqueue`` of requests.
        vcmdqs: hardware queues of one guest when `queues` has them (QEMU gives 2).
        doorbell: how the PROD write leaves the guest: ``trap-to-vmm`` (the vCPU is blocked while the VMM consumes,
            under its big lock), ``trap-to-kernel`` (light exit, a worker is signalled, the vCPU runs on),
            ``kernel-call`` (light exit, the kernel consumes in the vCPU's own context), ``direct`` (the device page is
            mapped) or ``polled`` (PROD is on a shared page that a worker watches: no exit).
        consumer: who reads the queue: the ``vmm``, the kernel in the vCPU's own exit (``kernel-caller``), a
            ``kernel-worker``, or ``hardware``; or a generator function of your own instead of the worker's,
            ``worker(queue, doorbell, host)`` like `smmu_lab.sim.consumer.kernel_worker`.
        worker: what one kernel thread works for: a ``queue``, a ``vm`` with all its queues, or the whole ``host``.
        wake: latency of a sleeping kernel worker: ``exponential`` above the low end of the cost ``wake`` with the
            cost's value as mean, or ``constant``.
        busy_poll: how long a worker looks for more before it sleeps, ns.
        weight: entries that a worker takes from one queue before another of its queues has its turn; 0 is no limit.
        kicks: whether the doorbell rings ``always`` or ``unless-running``: a consumer that runs has suppressed it.
        handoff: how commands reach the host's queue: ``none`` (a consumer in the kernel issues them itself);
            ``marshalled`` (v1 patch of 2023: a decoded struct per command; with ATS every TLBI and ATC_INV fans out to
            all devices of the domain); ``per-command`` (native array of one); ``array`` (one per consume);
            ``array-at-sync`` (one per CMD_SYNC); ``queue`` (pointer, size, head and tail: the kernel reads the guest's
            queue); ``map-unmap`` (the host's own map and unmap).
        host_queue: what executes: the physical ``cmdq``, shared by all guests; a ``vcmdq``; a CPU's ``ecmdq``.
        arbitration: between hardware queues: ``fifo`` (lists in order of arrival) or ``round-robin`` (a command each).
        execution: hardware queues share one engine (``serial``) or have one each (``parallel``).
        completion: how the guest sees the end: ``vmm-cons`` (trapped read under the big lock), ``kernel-cons`` (light
            exit), ``shared-cons`` (a mapped page), ``device-cons`` (a device read), ``msi-word`` (the CMD_SYNC's own
            word in memory), ``used-ring-poll`` or ``used-ring-irq``.
        unsupported: what happens to a command that the consumer may not run: ``none`` (it deals with every command),
            ``skip`` (CONS advances, never executed), ``error`` (the queue stops with CERROR_ILL, and the guest's driver
            replaces it), ``stop-and-fix`` (the consumer halts there and resumes at a cost) or ``guest-routes`` (the
            guest's driver takes the queue of `fallback` for it).
        fallback: catalogue key of the approach behind the guest's main queue when `unsupported` is ``guest-routes``.
        host_group: commands the host issues before each of its own CMD_SYNCs; 0 is all that were handed over at once.
    """

    where: ClassVar[str] = "approach"
    name: str = setting(TEXT)
    title: str = setting(TEXT)
    front: str = setting(one_of("smmu-commands", "virtio-iommu"), default="smmu-commands")
    queues: str = setting(one_of("cmdq", "cmdq+vcmdq", "ecmdq", "virtqueue"), default="cmdq")
    vcmdqs: int = setting(whole(0, 128), default=0)
    doorbell: str = setting(one_of("trap-to-vmm", "trap-to-kernel", "kernel-call", "direct", "polled"))
    consumer: str | Callable[..., Any] = setting(CONSUMER)
    worker: str = setting(one_of("queue", "vm", "host"), default="queue")
    wake: str = setting(one_of("exponential", "constant"), default="exponential")
    busy_poll: int = setting(DURATION, default=0)
    weight: int = setting(whole(0, 1 << 19), default=0)
    kicks: str = setting(one_of("always", "unless-running"), default="always")
    handoff: str = setting(
        one_of("none", "marshalled", "per-command", "array", "array-at-sync", "queue", "map-unmap"), default="none"
    )
    host_queue: str = setting(one_of("cmdq", "vcmdq", "ecmdq"), default="cmdq")
    arbitration: str = setting(one_of("fifo", "round-robin"), default="fifo")
    execution: str = setting(one_of("serial", "parallel"), default="serial")
    completion: str = setting(
        one_of(
            *("vmm-cons", "kernel-cons", "shared-cons", "device-cons"),
            *("msi-word", "used-ring-poll", "used-ring-irq"),
        )
    )
    unsupported: str = setting(one_of("none", "skip", "error", "stop-and-fix", "guest-routes"), default="none")
    fallback: str = setting(TEXT, default="")
    host_group: int = setting(whole(0, 1 << 19), default=0)

    def conflicts(self) -> Iterator[str]:
        """The reasons why this combination cannot exist, one line each."""
        for column, impossible, reason in RULES:
            if impossible(self):
                yield f"approach.{column}: {getattr(self, column)!r} cannot be: {reason}"
        if self.unsupported == "guest-routes":
            if self.fallback not in _ROWS:
                yield unknown("approach.fallback", self.fallback, _ROWS)
            elif (row := _ROWS[self.fallback]).get("queues", "cmdq") != "cmdq" or row["consumer"] == "hardware":
                yield f"approach.fallback: {self.fallback!r} cannot be: the guest's main queue is a trapped CMDQ"

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
    def has_worker(self) -> bool:
        """A kernel thread consumes: the built-in one, or one of your own."""
        return self.consumer == "kernel-worker" or callable(self.consumer)

    @property
    def in_kernel(self) -> bool:
        """Software in the host's kernel consumes."""
        return self.has_worker or self.consumer == "kernel-caller"

    @property
    def on_metal(self) -> bool:
        """There is no guest: its vCPUs are CPUs of the host, on the physical queues."""
        return self.executes_directly and self.host_queue != "vcmdq"

    @property
    def nested(self) -> bool:
        """The guest's own page tables are stage 1: its commands, not its maps, reach the host."""
        return self.front == "smmu-commands" and not self.on_metal

    @property
    def has_vcmdqs(self) -> bool:
        """The hardware runs the guest's queues, and takes VINTFs for them."""
        return self.host_queue == "vcmdq"

    @property
    def decodes_all(self) -> bool:
        """The VMM decodes every command, or takes every request."""
        return self.consumer == "vmm" and self.handoff != "queue"

    @property
    def is_restricted(self) -> bool:
        """The consumer takes what a VCMDQ takes: TLBI_NH_ASID, TLBI_NH_VA, ATC_INV and CMD_SYNC."""
        return self.queues == "cmdq+vcmdq" or self.host_queue == "vcmdq"


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
        lambda a: a.doorbell in ("trap-to-kernel", "polled") and not a.has_worker,
        "it needs consumer 'kernel-worker': only a thread is signalled, or watches a page",
    ),
    (
        "doorbell",
        lambda a: a.doorbell == "kernel-call" and a.consumer != "kernel-caller",
        "it needs consumer 'kernel-caller': the vCPU is in the kernel until the queue is consumed",
    ),
    (
        "doorbell",
        lambda a: a.doorbell == "polled" and a.front == "virtio-iommu",
        "a request ring has kicks that can be suppressed: kicks 'unless-running', with a busy_poll",
    ),
    (
        "worker",
        lambda a: a.worker != "queue" and not a.has_worker,
        "no kernel worker consumes: 'queue'",
    ),
    (
        "wake",
        lambda a: a.wake != "exponential" and not (a.has_worker and a.doorbell == "trap-to-kernel"),
        "no kernel worker sleeps: 'exponential'",
    ),
    (
        "busy_poll",
        lambda a: a.busy_poll > 0 and not (a.has_worker and a.doorbell == "trap-to-kernel"),
        "it needs a kernel worker that sleeps: doorbell 'trap-to-kernel'",
    ),
    (
        "weight",
        lambda a: a.weight > 0 and not a.has_worker,
        "no kernel worker consumes: 0",
    ),
    (
        "kicks",
        lambda a: a.kicks == "unless-running" and not (a.front == "virtio-iommu" and a.has_worker),
        "a command queue has no field for it: it needs front 'virtio-iommu' and a kernel worker",
    ),
    (
        "handoff",
        lambda a: a.consumer == "vmm" and a.handoff == "none",
        "consumer 'vmm' cannot reach the host's queue without an ioctl",
    ),
    (
        "handoff",
        lambda a: a.consumer != "vmm" and a.handoff not in ("none", "map-unmap"),
        "only consumer 'vmm' hands commands over by an ioctl",
    ),
    (
        "handoff",
        lambda a: (a.handoff == "map-unmap") != (a.front == "virtio-iommu"),
        "the host maps and unmaps if and only if front is 'virtio-iommu'",
    ),
    (
        "completion",
        lambda a: a.completion == "device-cons" and a.consumer != "hardware",
        "it needs consumer 'hardware': only its CONS is a device register that the guest can map",
    ),
    (
        "completion",
        lambda a: a.consumer == "hardware" and a.completion not in ("device-cons", "msi-word"),
        "consumer 'hardware' moves its own CONS register: 'device-cons', or on a physical queue 'msi-word'",
    ),
    (
        "completion",
        lambda a: a.completion == "msi-word" and a.is_restricted,
        "a VCMDQ takes a CMD_SYNC with CS_NONE only",
    ),
    (
        "completion",
        lambda a: a.completion == "kernel-cons" and not a.in_kernel,
        "the kernel does not know the CONS of this consumer: 'vmm-cons' or 'shared-cons'",
    ),
    (
        "completion",
        lambda a: a.completion == "vmm-cons" and a.consumer == "kernel-caller",
        "the kernel knows CONS when the doorbell's exit is over: 'kernel-cons', 'shared-cons' or 'msi-word'",
    ),
    (
        "completion",
        lambda a: a.completion.startswith("used-ring") != (a.front == "virtio-iommu"),
        "requests have a used ring, commands have CONS: 'used-ring-poll' or 'used-ring-irq' with front 'virtio-iommu'",
    ),
    (
        "queues",
        lambda a: (a.queues == "virtqueue") != (a.front == "virtio-iommu"),
        "front 'virtio-iommu' speaks through a 'virtqueue', and nothing else does",
    ),
    (
        "queues",
        lambda a: (a.queues == "ecmdq") != (a.host_queue == "ecmdq"),
        "an ECMDQ replaces no VMID and no StreamID, so only the host itself may fill it: queues and host_queue 'ecmdq'",
    ),
    (
        "host_queue",
        lambda a: a.host_queue != "cmdq" and a.consumer != "hardware",
        "it is filled by its owner: it needs consumer 'hardware'",
    ),
    (
        "queues",
        lambda a: a.queues == "cmdq+vcmdq" and a.consumer == "hardware" and a.host_queue != "vcmdq",
        "consumer 'hardware' runs a guest's VCMDQs if host_queue is 'vcmdq'",
    ),
    (
        "arbitration",
        lambda a: a.arbitration == "round-robin" and a.host_queue == "cmdq",
        "there is one hardware queue: 'fifo'",
    ),
    (
        "arbitration",
        lambda a: a.arbitration == "round-robin" and a.execution == "parallel",
        "queues that execute in parallel wait for no turn: 'fifo'",
    ),
    (
        "execution",
        lambda a: a.execution == "parallel" and a.host_queue == "cmdq",
        "there is one hardware queue: 'serial'",
    ),
    (
        "unsupported",
        lambda a: a.queues == "cmdq+vcmdq" and a.unsupported != "guest-routes",
        "a VCMDQ takes TLBI_NH_ASID, TLBI_NH_VA, ATC_INV and CMD_SYNC only: 'guest-routes', with a fallback",
    ),
    (
        "unsupported",
        lambda a: a.unsupported == "guest-routes" and a.queues != "cmdq+vcmdq",
        "the guest has no second queue: queues must be 'cmdq+vcmdq'",
    ),
    (
        "unsupported",
        lambda a: a.queues == "cmdq" and a.host_queue == "vcmdq" and a.unsupported != "stop-and-fix",
        "a VCMDQ takes TLBI_NH_ASID, TLBI_NH_VA, ATC_INV and CMD_SYNC only: 'stop-and-fix'",
    ),
    (
        "unsupported",
        lambda a: a.queues == "cmdq" and a.unsupported == "none" and (a.in_kernel or a.handoff == "queue"),
        "the VMM does not read the commands: 'skip', or with a consumer in the kernel 'stop-and-fix' or 'error'",
    ),
    (
        "unsupported",
        lambda a: a.unsupported in ("skip", "error", "stop-and-fix") and a.consumer == "vmm" and a.handoff != "queue",
        "the VMM reads every command and emulates what it must: 'none'",
    ),
    (
        "unsupported",
        lambda a: a.unsupported in ("error", "stop-and-fix") and a.handoff == "queue",
        "it needs a consumer that can halt at an entry: in the kernel, or a VCMDQ",
    ),
    (
        "unsupported",
        lambda a: a.on_metal and a.unsupported != "none",
        "a physical queue takes every command: 'none'",
    ),
    (
        "unsupported",
        lambda a: a.front == "virtio-iommu" and a.unsupported != "none",
        "there are no commands, only requests: 'none'",
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
        lambda a: a.host_group != 0 and a.handoff in ("marshalled", "per-command"),
        "commands reach the host one by one: no host groups, so 0",
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
_TWO_QUEUES = {"queues": "cmdq+vcmdq", "vcmdqs": 2, "unsupported": "guest-routes", "fallback": "qemu-today"}
_REQUESTS = {
    "front": "virtio-iommu",
    "queues": "virtqueue",
    "handoff": "map-unmap",
    "completion": "used-ring-poll",
    "unsupported": "none",
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
    "short-path-sync": {
        "title": "the kernel consumes in the doorbell's own exit, no worker",
        "doorbell": "kernel-call",
        "consumer": "kernel-caller",
        "completion": "kernel-cons",
        "unsupported": "stop-and-fix",
    },
    "short-path-polled": {
        "title": "kernel worker that never sleeps, PROD and CONS on shared pages: no exit",
        **_WORKER,
        "doorbell": "polled",
        "completion": "shared-cons",
    },
    "vhost-iommu": {
        "title": "virtio-iommu served by a vhost worker: map and unmap requests, no nesting",
        **_WORKER,
        **_REQUESTS,
        "kicks": "unless-running",
    },
    "virtio-iommu": {
        "title": "virtio-iommu served by the VMM: map and unmap requests, no nesting",
        **_TRAPPED,
        **_REQUESTS,
    },
    "vcmdq": {
        "title": "hardware runs the guest's own queues (NVIDIA VCMDQ), the rest traps",
        **_DEVICE,
        **_TWO_QUEUES,
        "host_queue": "vcmdq",
    },
    "vcmdq-overlay": {
        "title": "one guest queue laid over a VCMDQ; the hypervisor fixes what stops it (24 March 2023)",
        **_DEVICE,
        "host_queue": "vcmdq",
        "unsupported": "stop-and-fix",
    },
    "vcmdq-emulated": {
        "title": "after migration: the guest still sees VCMDQs, a kernel worker serves them",
        **_WORKER,
        **_TWO_QUEUES,
        "completion": "shared-cons",
    },
    "vcmdq-emulated-vmm": {
        "title": "after migration: the guest still sees VCMDQs, the VMM serves them",
        **_TRAPPED,
        **_TWO_QUEUES,
        "handoff": "per-command",
    },
    "ecmdq": {
        "title": "no guest: host CPUs with an ECMDQ each (SMMUv3.3)",
        **_DEVICE,
        "queues": "ecmdq",
        "host_queue": "ecmdq",
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
                row.consumer if isinstance(row.consumer, str) else row.consumer.__name__,
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


def read_approaches(asked: Iterable[Approach | str]) -> tuple[Approach, ...]:
    """Rows of the catalogue, by key or as objects.

    Raises:
        InvalidInput: none, an unknown one, or two of the same name.
    """
    if not isinstance(asked, Iterable) or isinstance(asked, str):
        raise InvalidInput([invalid("approaches", asked, "a list of rows of the catalogue")])
    rows = tuple(each if isinstance(each, Approach) else approach(each) for each in asked)
    if not rows:
        raise InvalidInput(["approaches: none given: at least one row of the catalogue"])
    if twice := [name for name, number in Counter(row.name for row in rows).items() if number > 1]:
        raise InvalidInput(f"approaches: {name!r} is there twice: give one a name with but(name=...)" for name in twice)
    return rows
