from math import ceil


def predict(problem):
    """D doorbells, S waits: who hears a doorbell, and how CONS is read, is up to the approach."""
    one_list = problem.ril or problem.pages >= 512
    tlbi = 1 if one_list else problem.pages  # or up to 7 with RIL: the same
    atc = problem.ats_devices
    doorbells = ceil(tlbi / 64) + ceil(atc / 64)
    syncs = 2 if atc else 1
    match problem.approach:
        case "vcmdq":
            return {"vmm": 0, "kernel": 0}
        case "short-path":
            return {"vmm": 0, "kernel": doorbells}
        case _:
            return {"vmm": doorbells + syncs, "kernel": 0}
