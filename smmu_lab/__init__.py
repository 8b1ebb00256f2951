"""A laboratory for guest SMMUv3 invalidation: who should pick up what a guest publishes in its command queue?

    import smmu_lab as lab

    s = lab.Scenario(workload=lab.unmaps(pages=16), smmu=lab.Smmu(ril=False), vcpus=4, costs="grace")
    lab.compare(s, ["qemu-today", "batched", "native-queue", "short-path", "vcmdq"])

The names below are loaded when they are first used; `import smmu_lab` itself loads nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Costs": "scenario",
    "Fault": "scenario",
    "Host": "scenario",
    "InvalidInput": "scenario",
    "Scenario": "scenario",
    "Smmu": "scenario",
    "Topology": "scenario",
    "amplification": "study",
    "approach": "scenario",
    "approaches": "scenario",
    "check_approach": "study",
    "compare": "study",
    "contention": "study",
    "costs": "scenario",
    "dashboard": "view",
    "exercise": "learn",
    "explore": "view",
    "inject": "study",
    "layouts": "study",
    "microscope": "view",
    "neighbours": "study",
    "read_trace": "scenario",
    "show_topology": "view",
    "simulate": "sim",
    "traces": "scenario",
    "unmaps": "scenario",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
