"""How fast the row ``bare-metal`` can be: `limit.c` beside this module, compiled when there is a compiler."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from array import array
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path

import attrs

from smmu_lab.scenario import Scenario, Unmaps
from smmu_lab.sim.clock import exponential, stream
from smmu_lab.sim.driver import POLL_DELAY, POLL_SPIN, lists

COLUMNS = ("vcpu", "start", "latency", "published", "done")
"""Of a row of the limit, times in ns: PROD was written at `published`, CONS covers the list from `done` on."""

FORMS = {"c_per_command": "run_events", "c_per_batch": "run_batch"}
"""A heap event for every command, or one for every list: the name of a figure, and of the function in C."""


class Unavailable(Exception):
    """There is no limit in C, on this machine or for this load; the text says why."""


class _Machine(ctypes.Structure):
    """The parameters; `machine` in C."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("cpus", "operations", "tlbis", "size", "fix", "entry", "write", "read", "relax"),
            *("tlbi", "occupied", "latency", "spin", "delay"),
        )
    )


@attrs.frozen(eq=False, repr=False)
class Load:
    """A scenario as the limit takes it: its parameters, and all think times drawn in advance."""

    machine: _Machine
    think: array[int]


def load(scenario: Scenario) -> Load:
    """Translate a scenario.

    Raises:
        Unavailable: it is more than strict unmaps of one list each in a closed loop.
    """
    unmaps, smmu, costs = scenario.workload, scenario.smmu, scenario.costs
    plain = smmu.errata == "none" and scenario.guests == 1 and not scenario.topology
    if not (plain and isinstance(unmaps, Unmaps)) or unmaps.lazy or unmaps.rate or unmaps.cd_every:
        raise Unavailable("the limit knows the strict unmaps of one host's CPUs in a closed loop, nothing else")
    (operation, *_) = scenario.operations(0, 0)
    works = [work for batch in operation.batches for work in lists(batch)]
    if len(works) > 1 or works[0].atc:
        raise Unavailable("the limit knows unmaps of at most 64 TLBIs, which are one list each")
    think = array("q")
    for vcpu in range(scenario.vcpus):
        drawn = exponential(stream(scenario.seed, 0, vcpu, "gap"), unmaps.gap)
        think.extend(islice(drawn, unmaps.ops) if unmaps.spread == "exponential" else [unmaps.gap] * unmaps.ops)
    machine = _Machine(
        cpus=scenario.vcpus,
        operations=unmaps.ops,
        tlbis=works[0].tlbi,
        size=1 << smmu.host_queue_log2,
        fix=costs.g_fix,
        entry=costs.g_cmd,
        write=costs.mmio_w,
        read=costs.mmio_r,
        relax=costs.relax,
        tlbi=costs.t_tlbi,
        occupied=costs.sync_occ,
        latency=costs.t_sync - costs.sync_occ,
        spin=POLL_SPIN,
        delay=POLL_DELAY,
    )
    return Load(machine, think)


class Limit:
    """The compiled limit.

    Attributes:
        compiler: the first line of its version.
    """

    def __init__(self) -> None:
        """Compile it.

        Raises:
            Unavailable: no compiler, or it does not compile.
        """
        command = _compiler()
        with tempfile.TemporaryDirectory() as folder, as_file(files("smmu_lab.study") / "limit.c") as source:
            library = Path(folder) / "limit.so"
            _run([*command, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)])
            self._library = ctypes.CDLL(str(library))
        self.compiler = _run([*command, "--version"]).partition("\n")[0]

    def run(self, form: str, load: Load) -> tuple[array[int], int]:
        """Run a load in one of the `FORMS`.

        Returns:
            Its rows, one after another, and how many events it took.

        Raises:
            Unavailable: a CPU would have to wait for room in the queue, or memory is short.
        """
        rows = array("q", bytes(8 * len(COLUMNS) * len(load.think)))
        function = getattr(self._library, FORMS[form])
        function.restype = ctypes.c_int64
        addresses = (ctypes.c_void_p(each.buffer_info()[0]) for each in (load.think, rows))
        events = function(ctypes.byref(load.machine), *addresses)
        if events < 0:
            full = "the queue is full at times, and the limit does not wait for room"
            raise Unavailable(full if events == -1 else "no memory")
        return rows, events


def operations(rows: array[int]) -> list[tuple[int, int, int]]:
    """Every operation as (vCPU, start, latency), in order of vCPU and time."""
    width = len(COLUMNS)
    return sorted(zip(rows[0::width], rows[1::width], rows[2::width], strict=True))


def _compiler() -> list[str]:
    for given in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        command = shlex.split(given)
        if command and shutil.which(command[0]):
            return command
    raise Unavailable("no C compiler: none of $CC, cc, gcc and clang is there")


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise Unavailable(f"{command[0]} does not compile the limit: {said[0] if said else error}") from None
