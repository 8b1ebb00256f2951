"""Counts and latencies that can be worked out on paper: golden.json, and the composition of NUMBERS section 5.1.

One vCPU, idle queues, no randomness in what counts.
"""

import json
from math import ceil
from pathlib import Path

import pytest

from smmu_lab.scenario import Scenario, Smmu, Unmaps, approach, costs
from smmu_lab.sim import simulate

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
ROWS = GOLDEN["event_counts"]["rows"]
OPS = 3
TRAPPED = ("per-command", "qemu-today", "batched", "batched-at-sync", "native-queue")


def unmaps(n, d, profile="grace"):
    """Strict unmaps that become n TLBIs and d ATC_INVs: without range invalidation, a page each."""
    load = Unmaps(pages=n, ats_devices=d, ops=OPS, spread="constant")
    return Scenario(workload=load, smmu=Smmu(ril=False), costs=profile)


def per_unmap(scenario, name):
    counts = simulate(scenario, name).counts
    return {
        field: getattr(counts, field) // OPS
        for field in ("doorbells", "exits_vmm", "exits_kernel", "ioctls", "host_syncs", "wakes", "cons_reads", "drains")
        if getattr(counts, field) % OPS == 0
    }


each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"n={row['tlbi']},d={row['atc_inv']}")


@each_row
@pytest.mark.parametrize("design", ["qemu-today", "batched", "batched-at-sync", "native-queue"])
def test_exits_ioctls_and_host_syncs_are_those_of_golden(row, design):
    counts = per_unmap(unmaps(row["tlbi"], row["atc_inv"]), design)
    assert {
        "full_exits": counts["exits_vmm"],
        "ioctls": counts["ioctls"],
        "host_syncs": counts["host_syncs"],
    } == row["designs"][design]
    assert counts["doorbells"] == row["doorbells"]
    assert counts["cons_reads"] == row["syncs"]
    assert counts["exits_kernel"] == counts["wakes"] == 0


@each_row
def test_per_command_follows_every_tlbi_with_the_devices(row):
    """A TLBI falls through to arm_smmu_atc_inv_domain, with a CMD_SYNC of its own; an ATC_INV is nothing else."""
    n, d = row["tlbi"], row["atc_inv"]
    counts = per_unmap(unmaps(n, d), "per-command")
    assert counts["exits_vmm"] == row["doorbells"] + row["syncs"]
    assert counts["ioctls"] == n + d
    assert counts["host_syncs"] == (2 * n + d if d else n)
    assert n + d <= counts["host_syncs"] <= 2 * (n + d)


@each_row
@pytest.mark.parametrize("design", ["short-path", "short-path-trapped-cons"])
def test_a_kernel_worker_needs_no_vmm_and_one_host_sync_per_drain(row, design):
    run = simulate(unmaps(row["tlbi"], row["atc_inv"]), design)
    counts, doorbells = run.counts, OPS * row["doorbells"]
    assert counts.doorbells == doorbells
    assert counts.exits_vmm == counts.ioctls == 0
    assert counts.wakes <= doorbells
    assert counts.host_syncs == counts.drains == len(run.batches) <= doorbells
    trapped = counts.cons_reads if design == "short-path-trapped-cons" else 0
    assert counts.exits_kernel == doorbells + trapped


@each_row
@pytest.mark.parametrize("design", ["vcmdq", "bare-metal"])
def test_hardware_needs_nobody(row, design):
    counts = per_unmap(unmaps(row["tlbi"], row["atc_inv"]), design)
    assert counts["doorbells"] == row["doorbells"]
    for nothing in ("exits_vmm", "exits_kernel", "ioctls", "host_syncs", "wakes"):
        assert counts[nothing] == 0


def test_512_kib_check_values():
    """PATHS section 4: 512 KiB without range invalidation, and with it."""
    counts = {name: per_unmap(unmaps(128, 0), name) for name in TRAPPED}
    figures = {name: (each["exits_vmm"], each["ioctls"], each["host_syncs"]) for name, each in counts.items()}
    assert figures == {
        "per-command": (3, 128, 128),
        "qemu-today": (3, 128, 128),
        "batched": (3, 2, 4),
        "batched-at-sync": (3, 1, 3),
        "native-queue": (3, 2, 2),
    }
    ranged = unmaps(128, 0).but({"smmu.ril": True})
    for name in TRAPPED:
        counts = per_unmap(ranged, name)
        assert (counts["exits_vmm"], counts["ioctls"], counts["host_syncs"]) == (2, 1, 1)


def test_from_512_pages_on_one_command_invalidates_the_address_space():
    assert simulate(unmaps(511, 0), "qemu-today").counts.ioctls == 511 * OPS
    assert simulate(unmaps(512, 0), "qemu-today").counts.ioctls == OPS


# -- latency: the composition of NUMBERS section 5.1 -----------------------------------------------------------------

PROFILES = ("grace", "n1", "a57")


def composed(name, n, c):
    """What an unmap of n TLBIs costs, and within how much of it the poll loop leaves the answer open, ns."""
    build = c.g_fix + (n + 1) * c.g_cmd
    hardware = c.hsubmit + c.t_sync + n * c.t_tlbi
    copied = (n + 1) * (c.conv + 2 * c.copy)
    return {
        "per-command": build + 2 * c.exit_user + (n + 1) * c.vmm_cmd
        + n * (c.ioctl + c.conv + c.copy + c.hsubmit + c.t_sync + c.t_tlbi),
        "batched": build + 2 * c.exit_user + (n + 1) * c.vmm_cmd + c.ioctl + n * (c.conv + c.copy) + hardware,
        "native-queue": build + 2 * c.exit_user + c.ioctl + copied + hardware,
        "short-path": build + c.exit_kernel + c.sig + c.wake + c.capture + copied + hardware,
        "vcmdq": build + c.mmio_w + c.t_sync + n * c.t_tlbi,
    }[name]  # fmt: skip


def latencies(scenario, by):
    return set(simulate(scenario, by).latencies)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("n", [1, 8, 32])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("per-command", "per-command"),
        ("qemu-today", "per-command"),
        ("batched", "batched"),
        ("batched-at-sync", "batched"),
        ("native-queue", "native-queue"),
    ],
)
def test_a_trapped_path_costs_what_its_parts_do(name, path, n, profile):
    """One poll step comes before the read of CONS, which succeeds."""
    c = costs(profile)
    assert latencies(unmaps(n, 0, profile), name) == {composed(path, n, c) + c.relax}


def until_seen(done, c, read, taken):
    """The first read of CONS that takes its value at `done` or later is back at; the loop starts at 0.

    Nine steps of cpu_relax, then one of 1, 2, 4 ... us, and a read after each.
    """
    t, k = 0, 0
    while True:
        k += 1
        t += c.relax if k % 10 else 1000 * 2 ** (k // 10 - 1)
        if t + taken >= done:
            return t + read
        t += read


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("n", [1, 8, 32])
@pytest.mark.parametrize("name", ["short-path", "short-path-trapped-cons"])
def test_a_short_path_costs_its_parts_and_the_rest_of_a_poll(name, n, profile):
    c = costs(profile)
    read = c.cons_shared if name == "short-path" else c.exit_kernel
    begins = c.g_fix + (n + 1) * c.g_cmd + c.exit_kernel + c.sig
    done = composed("short-path", n, c)
    expected = begins + until_seen(done - begins, c, read, read)
    assert latencies(unmaps(n, 0, profile), approach(name).but(wake="constant")) == {expected}
    assert done <= expected


def test_a_short_path_without_wake_and_capture_is_the_hardware_and_the_copy():
    """PATHS I-40: with wake = capture = sig = 0 and a free copy only the exit is left, and the rest of a poll."""
    c = costs("grace").but(wake={"low": 0, "value": 0}, capture=0, sig=0, relax=0, cons_shared=1)
    c = c.but(exit_kernel=c.mmio_w, conv=0, copy=0, hsubmit=c.mmio_w)
    for n in (1, 8, 32):
        (short,) = latencies(unmaps(n, 0).but(costs=c), "short-path")
        hardware = composed("vcmdq", n, c)
        delay = 1000 * 2 ** ceil(n * c.t_tlbi / 1000)  # of a udelay that began before
        assert hardware + c.mmio_w <= short <= hardware + c.mmio_w + delay


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("n", [1, 8, 32])
@pytest.mark.parametrize("name", ["vcmdq", "bare-metal"])
def test_hardware_costs_its_parts_and_the_rest_of_a_poll(name, n, profile):
    """The paper reads CONS once, when it is due; the driver reads in a loop, and a read takes its value half-way."""
    c = costs(profile)
    begins = c.g_fix + (n + 1) * c.g_cmd + c.mmio_w
    done = composed("vcmdq", n, c)
    (actual,) = latencies(unmaps(n, 0, profile), name)
    assert actual == begins + until_seen(done - begins, c, c.mmio_r, c.mmio_r // 2)
    assert done + c.mmio_r - c.mmio_r // 2 <= actual
