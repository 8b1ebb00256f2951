"""What a user describes: the approach, the workload, the costs, the scenario. Frozen, validated, TOML and back.

Here belongs every setting, and the reading of what comes from outside (TOML, traces). Not here: what takes time
(`smmu_lab.sim`), and what the specification fixes (`smmu_lab.arch`).
"""

from smmu_lab.scenario.approach import Approach, approach, approaches, read_approaches
from smmu_lab.scenario.bundled import traces
from smmu_lab.scenario.costs import Cost, Costs, costs
from smmu_lab.scenario.fault import Fault
from smmu_lab.scenario.fields import InvalidInput, read_assignment
from smmu_lab.scenario.layout import Device, Layout, Vsmmu
from smmu_lab.scenario.machine import Host, Smmu
from smmu_lab.scenario.neighbour import Neighbour
from smmu_lab.scenario.recorded import Publication, Trace
from smmu_lab.scenario.scenario import Scenario
from smmu_lab.scenario.topology import Topology
from smmu_lab.scenario.trace import TraceError, read_trace
from smmu_lab.scenario.wiring import wire
from smmu_lab.scenario.workload import Batch, Operation, Recorded, Unmaps, flush_batches, unmap_batches

unmaps = Unmaps

__all__ = [
    "Approach",
    "Batch",
    "Cost",
    "Costs",
    "Device",
    "Fault",
    "Host",
    "InvalidInput",
    "Layout",
    "Neighbour",
    "Operation",
    "Publication",
    "Recorded",
    "Scenario",
    "Smmu",
    "Topology",
    "Trace",
    "TraceError",
    "Unmaps",
    "Vsmmu",
    "approach",
    "approaches",
    "costs",
    "flush_batches",
    "read_approaches",
    "read_assignment",
    "read_trace",
    "traces",
    "unmap_batches",
    "unmaps",
    "wire",
]
