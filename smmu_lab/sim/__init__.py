"""What takes time. The modules stand in the order in which a command meets them.

vcpu (who asks), driver (lists and polls), queue (insertion), doorbell (how PROD leaves the guest), consumer (who reads
the queue), handoff (how commands reach the kernel), kernel (how it issues them), host (the shared queue and CPUs), smmu
(the engine), completion (how the guest learns of it), recovery (what happens at an error). clock holds the time, guest
wires one guest together, simulate runs all. passage has no time: what becomes of real commands on the same way.

Not here: what is described (`smmu_lab.scenario`), what is concluded (`smmu_lab.record`, `smmu_lab.study`).
"""

from smmu_lab.sim.simulate import simulate

__all__ = ["simulate"]
