"""Counts and latencies that can be worked out on paper: golden.json, and the composition of NUMBERS section 5.1.

One vCPU, idle queues, no randomness in what counts.
"""

import json
from pathlib import Path

import pytest

from smmu_lab.scenario import (
    Batch,
    InvalidInput,
    Operation,
    Scenario,
    Smmu,
    Unmaps,
    approach,
    approaches,
    costs,
)
from smmu_lab.sim import simulate
from smmu_lab.sim.driver import Work
from smmu_lab.sim.kernel import commands, cut

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden.json").read_text())
ROWS = GOLDEN["event_counts"]["rows"]
OPS = 3
TRAPPED = ("per-command", "qemu-today", "batched", "batched-at-sync", "native-queue")


def unmaps(n, d, profile="grace"):
    """Strict unmaps that become n TLBIs and d ATC_INVs: without range invalidation, a page each."""
    load = Unmaps(pages=n, ats_devices=d, ops=OPS, spread="constant")
    return Scenario(workload=load, smmu=Smmu(ril=False, sids=64), costs=profile)


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
@pytest.mark.parametrize("name", ["vcmdq-emulated", "short-path-polled"])
def test_other_kernel_workers_do_as_much(row, name):
    """A VCMDQ in software exits for each doorbell, a polled page never does; one host CMD_SYNC per drain for both."""
    run = simulate(unmaps(row["tlbi"], row["atc_inv"]), name)
    counts, doorbells = run.counts, OPS * row["doorbells"]
    assert counts.doorbells == doorbells
    assert counts.exits_vmm == counts.ioctls == 0
    assert counts.exits_kernel == (doorbells if name == "vcmdq-emulated" else 0)
    assert counts.wakes <= (doorbells if name == "vcmdq-emulated" else 0)
    assert counts.host_syncs == counts.drains <= doorbells


@each_row
def test_consumption_in_the_kernel_exit_has_a_light_exit_per_doorbell_and_per_read(row):
    counts = per_unmap(unmaps(row["tlbi"], row["atc_inv"]), "short-path-sync")
    assert counts["exits_kernel"] == row["doorbells"] + row["syncs"]
    assert counts["cons_reads"] == row["syncs"]
    assert counts["host_syncs"] == counts["drains"] == row["doorbells"]
    assert counts["exits_vmm"] == counts["ioctls"] == counts["wakes"] == 0


@each_row
def test_vcmdqs_served_by_the_vmm_cost_what_qemu_today_does(row):
    scenario = unmaps(row["tlbi"], row["atc_inv"])
    assert per_unmap(scenario, "vcmdq-emulated-vmm") == per_unmap(scenario, "qemu-today")


@each_row
@pytest.mark.parametrize("design", [*TRAPPED, "short-path-sync"])
def test_an_msi_word_saves_the_second_exit(row, design):
    """IDR0.MSI offered: D exits instead of D + S, and nothing else changes (PATHS 1.2)."""
    scenario = unmaps(row["tlbi"], row["atc_inv"])
    counts, saved = per_unmap(scenario, design), per_unmap(scenario, approach(design).but(completion="msi-word"))
    exits = "exits_kernel" if design == "short-path-sync" else "exits_vmm"
    assert counts[exits] == row["doorbells"] + row["syncs"]
    assert saved == counts | {exits: row["doorbells"], "cons_reads": 0}


@each_row
@pytest.mark.parametrize("name", ["vhost-iommu", "virtio-iommu"])
def test_a_request_is_a_kick_and_an_unmap_has_host_syncs_of_its_own(row, name):
    """One for the TLBIs, and with ATS one for the ATC_INVs; a map has none."""
    run = simulate(unmaps(row["tlbi"], row["atc_inv"]), name)
    counts, requests = run.counts, 2 * OPS
    assert counts.doorbells == counts.drains == requests
    assert counts.host_syncs == OPS * row["syncs"]
    assert counts.host_commands == OPS * (row["tlbi"] + row["atc_inv"] + row["syncs"])
    assert counts.cons_reads == 0
    kicks = {"vhost-iommu": (0, requests, 0), "virtio-iommu": (requests, 0, requests)}
    assert (counts.exits_vmm, counts.exits_kernel, counts.ioctls) == kicks[name]
    assert counts.wakes == counts.exits_kernel


def test_a_worker_that_looks_for_more_needs_no_kick():
    """The unmap follows the map at once: the consumer still looks, and has suppressed the doorbell."""
    busy = approach("vhost-iommu").but(busy_poll="5us")
    counts = simulate(unmaps(8, 0), busy).counts
    assert counts.exits_kernel == counts.wakes == OPS
    assert simulate(unmaps(8, 0), busy.but(kicks="always")).counts.exits_kernel == 2 * OPS
    assert simulate(unmaps(8, 0), busy.but(completion="used-ring-irq")).counts.interrupts == 2 * OPS


@pytest.mark.parametrize(("errata", "host_syncs"), [("none", 1), ("tlbi-apart", 2), ("leaf-apart", 2)])
def test_a_host_with_an_erratum_cuts_arrays(errata, host_syncs):
    """N1: an array that gathered TLBIs and ATC_INVs is cut where their kinds change."""
    tlbi, atc = Work(3, 0, 0, 0, 1, 4), Work(0, 2, 0, 0, 1, 3)
    assert len(cut(commands([tlbi, atc]), 63, errata)) == host_syncs
    leaf, walk = Work(2, 0, 0, 0, 1, 3), Work(1, 0, 0, 0, 1, 2, leaf=False)
    assert len(cut(commands([leaf, walk, leaf]), 63, errata)) == (3 if errata == "leaf-apart" else 1)


def test_an_erratum_of_the_host_costs_host_syncs_where_vcpus_gather():
    load = Unmaps(pages=3, ats_devices=2, ops=50, think=1_000)
    scenario = Scenario(workload=load, smmu=Smmu(ril=False), vcpus=8)
    whole, apart = (
        simulate(scenario.but({"smmu.errata": errata}), "batched").counts for errata in ("none", "tlbi-apart")
    )
    assert apart.host_syncs / apart.ioctls > whole.host_syncs / whole.ioctls == 1


def test_a_host_that_needs_force_sync_refuses_nesting():
    """Its own lists are 63 entries with a CMD_SYNC each, so 130 TLBIs wait three times."""
    scenario = unmaps(130, 0).but({"smmu.errata": "force-sync"})
    for row in approaches():
        if row.nested:
            with pytest.raises(
                InvalidInput, match=r"smmu\.errata: 'force-sync' cannot be under .*: the host offers no"
            ):
                simulate(scenario, row)
    assert per_unmap(scenario, "bare-metal")["doorbells"] == 3
    assert per_unmap(scenario, "virtio-iommu")["host_syncs"] == 3


@pytest.mark.parametrize("name", ["vcmdq", "vcmdq-overlay", "vcmdq-emulated", "vcmdq-emulated-vmm"])
def test_a_vcmdq_does_not_run_cfgi_cd(name):
    """It is routed to the trapped queue, or stops the hardware until the VMM has run it."""
    scenario = Scenario(workload=Unmaps(pages=8, cd_every=2, ops=10, think=200_000), smmu=Smmu(ril=False))
    counts = simulate(scenario, name).counts
    trapped = 5 if name != "vcmdq-emulated-vmm" else 5 + 10 * 8
    assert counts.ioctls == trapped
    assert counts.exits_vmm == {"vcmdq-overlay": 0, "vcmdq-emulated-vmm": 2 * 15}.get(name, 2 * 5)


# -- lazy mode ---------------------------------------------------------------------------------------------------------


def test_strict_mode_leaves_nothing_exposed():
    for row in approaches():
        assert simulate(Scenario(workload=Unmaps(pages=4, ops=20), vcpus=2, guests=2), row).counts.exposure == 0


def test_lazy_mode_exposes_pages_from_unmap_to_flush():
    """One CPU, an unmap every 40 us: 250 are queued when the timer ends 10 ms after the first of them.

    An unmap that returned k intervals before the flush's CMD_SYNC was exposed for so long; worked out on paper.
    """
    c = costs("grace").but(fq_add=0)
    load = Unmaps(pages=4, lazy=True, ops=250, think=40_000, spread="constant")
    counts = simulate(Scenario(workload=load, costs=c), "bare-metal").counts
    flush = c.g_fix + 2 * c.g_cmd + c.mmio_w + c.t_tlbi + c.t_sync
    assert counts.exposure == sum(4 * (10_000_000 + flush - 40_000 * k) for k in range(250))


def test_the_time_that_lazy_mode_saves_is_beside_what_it_exposes():
    scenario = Scenario(workload=Unmaps(pages=4, ops=600, think=10_000))
    strict, lazy = (simulate(scenario.but({"workload.lazy": flag}), "qemu-today") for flag in (False, True))
    assert lazy.latency.mean.value < strict.latency.mean.value / 5
    assert lazy.counts.exposure > strict.counts.exposure == 0


@each_row
@pytest.mark.parametrize("design", ["vcmdq", "vcmdq-overlay", "ecmdq", "bare-metal"])
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
    read, taken = (c.cons_shared, c.cons_shared // 2) if name == "short-path" else (c.exit_kernel, c.exit_kernel)
    begins = c.g_fix + (n + 1) * c.g_cmd + c.exit_kernel + c.sig
    done = composed("short-path", n, c)
    expected = begins + until_seen(done - begins, c, read, taken)
    assert latencies(unmaps(n, 0, profile), approach(name).but(wake="constant")) == {expected}
    assert done <= expected


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("n", [1, 8, 32])
def test_a_short_path_in_the_exit_costs_its_parts(n, profile):
    """NUMBERS 5.1, "short-path, inline in the exit"; one poll step comes before the read, which succeeds."""
    c = costs(profile)
    parts = c.g_fix + (n + 1) * (c.g_cmd + c.conv + 2 * c.copy) + c.hsubmit + c.t_sync + n * c.t_tlbi
    assert latencies(unmaps(n, 0, profile), "short-path-sync") == {parts + 2 * c.exit_kernel + c.relax}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("n", [1, 8, 32])
def test_a_polled_short_path_costs_its_parts_and_the_rest_of_a_poll(n, profile):
    c = costs(profile)
    begins = c.g_fix + (n + 1) * c.g_cmd + c.prod_shared
    work = c.poll + c.capture + (n + 1) * (c.conv + 2 * c.copy) + c.hsubmit + c.t_sync + n * c.t_tlbi
    expected = begins + until_seen(work, c, c.cons_shared, c.cons_shared // 2)
    assert latencies(unmaps(n, 0, profile), "short-path-polled") == {expected}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("n", [1, 8, 32])
def test_a_request_costs_its_parts(n, profile):
    """Of virtio-iommu in the VMM: the pair of a map and an unmap, each with an exit and an ioctl."""
    c = costs(profile)
    each = c.vq_add + c.exit_user + c.vq_take + c.ioctl + c.cons_shared
    unmap = c.host_unmap + n * c.unpin + c.hsubmit + c.t_sync + n * c.t_tlbi
    run = simulate(unmaps(n, 0, profile), "virtio-iommu")
    assert set(run.latencies) == {each + c.host_map + n * c.pin, each + unmap}
    assert set(run.latency.values) == {2 * each + c.host_map + n * c.pin + unmap}


def completion_times(scenario, by):
    """From each PROD write until CONS covers it."""
    return [drain["end"] - drain["rung"] for drain in simulate(scenario, by).batches.rows()]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("n", [1, 8, 32, 63])
def test_the_software_path_without_its_costs_is_the_hardware_and_the_copy(n, profile):
    """Claim S3, I-40: wake, signal, capture, conversion and submission at zero, PROD and CONS as dear as the device's.

    Operation by operation: CONS moves later by the copy of the entries, and without that at the same instant. As the
    guest sees it the copy may cost more, up to the rest of a poll step.
    """
    c = costs(profile)
    c = c.but(wake={"low": 0, "value": 0}, sig=0, capture=0, conv=0, hsubmit=0, poll=0)
    c = c.but(prod_shared=c.mmio_w, cons_shared=c.mmio_r)
    scenario = Scenario(workload=Unmaps(pages=n, ops=30), smmu=Smmu(ril=False), costs=c)
    software, hardware = approach("short-path").but(doorbell="polled"), approach("vcmdq").but(vcmdqs=1)
    later = [
        a - b for a, b in zip(completion_times(scenario, software), completion_times(scenario, hardware), strict=True)
    ]
    assert later == [2 * c.copy * (n + 1)] * 30
    free = scenario.but({"costs.copy": 0})
    assert completion_times(free, software) == completion_times(free, hardware)
    assert simulate(free, software).latencies == simulate(free, hardware).latencies


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


# -- CPU time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 8])
def test_whose_time_it_takes(n):
    """One vCPU, idle queues: what is spent in the guest, by its thread outside, and by a worker on its CPU."""
    c = costs("grace")
    build = c.g_fix + (n + 1) * c.g_cmd
    host = c.hsubmit + c.t_sync + n * c.t_tlbi
    copied = (n + 1) * (c.conv + 2 * c.copy)

    def spent(by):
        counts = simulate(unmaps(n, 0), by).counts
        return counts.cpu_guest // OPS, counts.cpu_host // OPS, counts.cpu_worker // OPS

    consumed = n * (c.vmm_cmd + c.ioctl + c.conv + c.copy + c.hsubmit + c.t_sync + c.t_tlbi) + c.vmm_cmd
    assert spent("qemu-today") == (build + c.relax, 2 * c.exit_user + consumed, 0)
    assert spent("short-path-sync") == (build + c.relax, 2 * c.exit_kernel + copied + host, 0)
    (latency,) = latencies(unmaps(n, 0), steady := approach("short-path").but(wake="constant"))
    ringing = c.exit_kernel + c.sig
    assert spent(steady) == (latency - ringing, ringing, c.capture + copied + host)
    (latency,) = latencies(unmaps(n, 0), "vcmdq")
    assert spent("vcmdq") == (latency, 0, 0)


def test_a_worker_that_never_sleeps_burns_its_cpu():
    run = simulate(unmaps(8, 0), "short-path-polled")
    assert run.counts.cpu_worker == run.duration


# -- what a consumer may not run -------------------------------------------------------------------------------------


def mixed(*operations):
    """A guest whose vCPUs each do one of these once, the first vCPU first."""

    class Mixed(Unmaps):
        def operations(self, vcpu, ril, reaches):
            return [operations[vcpu]]

    load = Mixed(think=0, ops=1)
    return Scenario(workload=load, smmu=Smmu(ril=False), vcpus=len(operations))


EIGHT, ATTACH = Operation("unmap", 8, (Batch(tlbi=8),)), Operation("other", 0, (Batch(ste=1, vcmdq=False),))


@pytest.mark.parametrize("name", ["short-path", "short-path-sync", "vcmdq-overlay"])
def test_a_consumer_halts_at_what_it_may_not_run_and_goes_on_behind_it(name):
    """TLBIs ahead of a CFGI_STE do not wait for it, those behind it do (PATHS 2.7: stop, signal, wait, continue)."""
    run = simulate(mixed(EIGHT, ATTACH, EIGHT), name)
    c = costs("grace")
    latency = dict(zip(run.ops["vcpu"], run.latencies, strict=True))
    assert run.counts.fixes == 1
    if name == "vcmdq-overlay":
        assert latency[0] < c.fix < c.fix + c.vmm_ste < latency[1] < latency[2]
    else:
        assert min(latency.values()) > c.fix + c.vmm_ste  # one CONS for the drain
        assert run.counts.host_syncs == 2  # ahead of it, and behind it
    if name == "vcmdq-overlay":
        assert run.counts.cpu_host == c.fix + c.vmm_ste


# -- consumers of one's own ------------------------------------------------------------------------------------------


def patient(ns):
    """The built-in worker, but it waits a while before it drains."""

    def worker(queue, doorbell, host):
        while True:
            t = yield from doorbell.wait()
            t = yield from host.delay(t, ns)
            while drain := doorbell.take(t):
                t = yield from host.execute(drain, t)
                queue.complete(drain, t)
            doorbell.done(t)

    return worker


def test_a_consumer_of_ones_own_runs_everywhere():
    base = approach("short-path").but(wake="constant", completion="msi-word")
    late = base.but(consumer=patient(5_000))
    (usual,), (waits,) = (latencies(unmaps(8, 0), row) for row in (base, late))
    assert waits == usual + 5_000
    sparse = Scenario(workload=Unmaps(pages=8, ops=50, think=40_000), smmu=Smmu(ril=False), vcpus=8)
    merged = simulate(sparse, late).counts
    assert merged.drains < simulate(sparse, base).counts.drains, "who waits finds more"


def test_a_consumer_does_not_look_into_the_future():
    def hasty(queue, doorbell, host):
        t = yield from doorbell.wait()
        doorbell.take(t + 5_000)

    with pytest.raises(RuntimeError, match=r"let time pass by host\.delay\(t, ns\)"):
        simulate(unmaps(8, 0), approach("short-path").but(consumer=hasty))


def test_a_consumer_is_a_generator_function():
    with pytest.raises(
        InvalidInput, match=r"approach\.consumer: .* is not valid: .*generator function worker\(queue, do"
    ):
        simulate(unmaps(8, 0), approach("short-path").but(consumer=lambda queue, doorbell, host: None))
