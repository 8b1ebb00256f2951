"""The textbook is held to the prose: small cases that a reader can work out on paper, from the costs alone."""

import pytest

from smmu_lab.scenario import InvalidInput, Scenario, Smmu, Unmaps, approach, approaches, costs
from smmu_lab.sim.textbook import textbook

C = costs("grace")
HOST = C.hsubmit + C.t_tlbi + C.t_sync  # one TLBI on the idle host queue
INSERT = C.g_fix + 2 * C.g_cmd  # one TLBI and its CMD_SYNC
FETCH = 2 * (2 * C.copy + C.conv)


def one(pages=1, ops=1, **more):
    """One vCPU, one page, no range invalidation, all times constant; `more` are further fields by dotted path."""
    load = Unmaps(pages=pages, ops=ops, maps=0, think=1_000_000, spread="constant")
    return Scenario(workload=load, smmu=Smmu(ril=False)).but(more)


def run(scenario, name, **columns):
    """Latencies in order of start, and counts."""
    row = approach(name).but(columns) if columns else approach(name)
    done = textbook(scenario, row)
    return [latency for *_, latency in sorted(done.ops, key=lambda op: (op[3], op[4]))], done.counts


def seen(begin, visible, read, sample):
    """When a CPU that polls from `begin` knows what is `visible`: nine cpu_relax, then a udelay that doubles."""
    t, k, delay = begin, 1, 1000
    while True:
        t += C.relax if k % 10 else delay
        delay *= 1 if k % 10 else 2
        if t + sample >= visible:
            return t + read
        t, k = t + read, k + 1


def test_kernel_call_is_one_exit_with_everything_in_it():
    latencies, counts = run(one(), "short-path-sync")
    assert latencies == [INSERT + C.exit_kernel + FETCH + HOST + C.relax + C.exit_kernel]
    assert counts == {"exits_kernel": 2, "cons_reads": 1, "host_syncs": 1}


def test_a_sleeping_worker_and_the_word_of_the_sync():
    latencies, counts = run(one(), "short-path", completion="msi-word", wake="constant")
    assert latencies == [INSERT + C.exit_kernel + C.sig + C.wake + C.capture + FETCH + HOST + C.cons_shared]
    assert counts == {"exits_kernel": 1, "wakes": 1, "host_syncs": 1}


def test_a_polled_doorbell_needs_no_exit_and_no_wake_up():
    latencies, counts = run(one(), "short-path-polled")
    rung = INSERT + C.prod_shared
    done = rung + C.poll + C.capture + FETCH + HOST
    assert latencies == [seen(rung, done, C.cons_shared, C.cons_shared // 2)]
    assert set(counts) == {"cons_reads", "host_syncs"}


@pytest.mark.parametrize("handoff", ["per-command", "array", "array-at-sync"])
def test_the_vmm_writes_the_word_before_its_exit_is_over(handoff):
    latencies, counts = run(one(), "qemu-today", handoff=handoff, completion="msi-word")
    handler = 2 * C.vmm_cmd + C.ioctl + C.copy + C.conv + HOST
    assert latencies == [INSERT + C.exit_user + handler + C.cons_shared]
    assert counts == {"exits_vmm": 1, "ioctls": 1, "host_syncs": 1}


def test_requests_to_the_vmm_follow_each_other():
    latencies, counts = run(one(pages=3, **{"workload.maps": 2}), "virtio-iommu")
    request = C.vq_add + C.exit_user + C.vq_take + C.ioctl + C.cons_shared
    unmapped = C.host_unmap + 3 * C.unpin + C.hsubmit + 3 * C.t_tlbi + C.t_sync
    assert latencies == [request + C.host_map + 3 * C.pin] * 2 + [request + unmapped]
    assert counts == {"exits_vmm": 3, "ioctls": 3, "host_syncs": 1}


def test_requests_with_ats_wait_for_two_syncs():
    more = {"workload.ats_devices": 2}
    (plain,), _ = run(one(), "virtio-iommu")
    (latency,), counts = run(one(**more), "virtio-iommu")
    answered = max(C.sync_occ, C.atc_rtt)  # after the last ATC_INV
    assert latency - plain == C.hsubmit + 2 * C.t_atc + answered + C.t_sync - C.sync_occ
    assert counts["host_syncs"] == 2


def test_requests_that_end_with_an_interrupt():
    latencies, counts = run(
        one(**{"workload.maps": 1}), "vhost-iommu", completion="used-ring-irq", wake="constant", kicks="always"
    )
    before = C.vq_add + C.exit_kernel + C.sig + C.wake + C.vq_take
    after = C.lpi
    assert latencies == [before + C.host_map + C.pin + after, before + C.host_unmap + C.unpin + HOST + after]
    assert counts == {"exits_kernel": 2, "wakes": 2, "interrupts": 2, "host_syncs": 1}


def test_a_worker_that_looks_needs_no_kick():
    latencies, counts = run(one(**{"workload.maps": 2}), "vhost-iommu", wake="constant", busy_poll=50_000)
    first = C.vq_add + C.exit_kernel + C.sig + C.wake
    next_ = C.vq_add + C.poll
    mapped, unmapped = C.host_map + C.pin, C.host_unmap + C.unpin + HOST
    served = C.vq_take + C.cons_shared
    assert latencies == [first + mapped + served, next_ + mapped + served, next_ + unmapped + served]
    assert counts == {"exits_kernel": 1, "wakes": 1, "host_syncs": 1}


def test_a_worker_that_looked_in_vain_sleeps():
    latencies, counts = run(one(ops=2), "short-path", completion="msi-word", wake="constant", busy_poll=50_000)
    assert latencies[0] == latencies[1]
    assert counts["wakes"] == 2
    latencies, counts = run(one(ops=2), "short-path", completion="msi-word", wake="constant", busy_poll=5_000_000)
    assert latencies[0] - latencies[1] == C.wake - C.poll
    assert counts["wakes"] == 1


def test_a_worker_that_looks_gives_its_cpu_to_whom_has_work():
    more = {"host.worker_cpus": 1, "guests": 2, "workload.spread": "exponential", "seed": 3}
    columns = {"completion": "msi-word", "wake": "constant"}
    alone, _ = run(one(), "short-path", **columns)
    looking, counts = run(one(**more), "short-path", **columns, busy_poll=1_000_000_000)
    assert looking == alone * 2  # far apart: nobody waits for the other's work, nor for its idling
    assert counts["wakes"] == 2


@pytest.mark.parametrize(("worker", "wakes"), [("queue", 2), ("vm", 2), ("host", 1)])
def test_one_thread_or_one_cpu_serves_one_queue_after_the_other(worker, wakes):
    columns = {"completion": "msi-word", "wake": "constant", "worker": worker}
    (first,), _ = run(one(), "short-path", **columns)
    latencies, counts = run(one(**{"guests": 2, "host.worker_cpus": 1}), "short-path", **columns)
    assert latencies == [first, first + C.capture + FETCH + HOST]
    assert counts["wakes"] == wakes


@pytest.mark.parametrize(("weight", "passes"), [(0, [65]), (64, [64, 1]), (1, [64, 1]), (66, [65])])
def test_a_weight_cuts_a_pass_between_prod_writes(weight, passes):
    slow = {"costs.wake": 1_000_000}  # both PROD writes are in before the worker is
    latencies, counts = run(one(pages=65, **slow), "short-path", completion="msi-word", wake="constant", weight=weight)
    first = C.g_fix + 64 * C.g_cmd + C.exit_kernel + C.sig
    consumed = 66 * (2 * C.copy + C.conv) + 65 * C.t_tlbi + len(passes) * (C.capture + C.hsubmit + C.t_sync)
    assert latencies == [first + 1_000_000 + consumed + C.cons_shared]
    assert counts["host_syncs"] == len(passes)


def test_a_vcmdq_that_is_laid_over_stops_at_what_it_refuses():
    latencies, counts = run(one(**{"workload.cd_every": 1}), "vcmdq-overlay")
    rung = INSERT + C.mmio_w
    fixed = rung + C.fix + C.ioctl + C.copy + C.conv + HOST
    read = C.mmio_r, C.mmio_r // 2
    assert latencies == [seen(rung, fixed + C.t_sync, *read), seen(rung, rung + C.t_tlbi + C.t_sync, *read)]
    assert (counts["ioctls"], counts["host_syncs"]) == (1, 1)


@pytest.mark.parametrize("name", ["vcmdq", "vcmdq-emulated", "vcmdq-emulated-vmm"])
def test_what_a_vcmdq_refuses_takes_the_main_queue(name):
    (there,), counted = run(one(), "qemu-today")
    (switch, _), counts = run(one(**{"workload.cd_every": 1}), name)
    assert switch == there
    assert counts["ioctls"] == counted["ioctls"] * (2 if name == "vcmdq-emulated-vmm" else 1)


@pytest.mark.parametrize(
    ("columns", "waits"),
    [
        ({}, [8 * C.t_tlbi, 16 * C.t_tlbi + C.sync_occ]),
        ({"arbitration": "round-robin"}, [16 * C.t_tlbi, 16 * C.t_tlbi + C.sync_occ]),
        ({"execution": "parallel"}, [8 * C.t_tlbi, 8 * C.t_tlbi]),
    ],
)
def test_two_ecmdqs_ring_at_one_instant(columns, waits):
    latencies, _ = run(one(pages=8, vcpus=2), "ecmdq", completion="msi-word", **columns)
    begin, end = C.g_fix + 9 * C.g_cmd + C.mmio_w, C.t_sync + C.cons_shared
    assert latencies == [begin + wait + end for wait in waits]


def test_a_forced_sync_cuts_lists_at_63_and_waits_for_each():
    latencies, _ = run(one(pages=128, **{"smmu.errata": "force-sync"}), "bare-metal", completion="msi-word")
    each = C.g_fix + C.g_cmd + C.mmio_w + C.t_sync + C.cons_shared
    assert latencies == [3 * each + 128 * (C.g_cmd + C.t_tlbi)]


def test_lazy_unmaps_are_exposed_until_the_timer_has_flushed():
    latencies, counts = run(one(pages=4, ops=3, **{"workload.lazy": True}), "bare-metal", completion="msi-word")
    flush = INSERT + C.mmio_w + C.t_tlbi + C.t_sync
    assert latencies == [C.fq_add] * 3 + [flush + C.cons_shared]
    returned = [k * (1_000_000 + C.fq_add) for k in (1, 2, 3)]
    visible = returned[0] + 10_000_000 + flush
    assert counts["exposure"] == sum(4 * (visible - each) for each in returned)


def test_a_full_flush_queue_flushes_before_it_takes_one_more():
    soon = {"workload.lazy": True, "workload.think": 1000}
    latencies, counts = run(one(ops=256, **soon), "bare-metal", completion="msi-word")
    flush = INSERT + C.mmio_w + C.t_tlbi + C.t_sync
    assert latencies == [C.fq_add] * 255 + [C.fq_add + flush + C.cons_shared, flush + C.cons_shared]
    step = 1000 + C.fq_add
    inline = 256 * step + flush  # when the first 255 are safe
    last = inline + C.cons_shared  # when the 256th returns; the timer runs since the first
    assert counts["exposure"] == sum(inline - k * step for k in range(1, 256)) + step + 10_000_000 + flush - last


@pytest.mark.parametrize("row", approaches(), ids=lambda row: row.name)
def test_every_row_serves_everybody(row):
    load = Unmaps(pages=65, ops=3, think=1000)
    done = textbook(Scenario(workload=load, smmu=Smmu(ril=False), guests=2, vcpus=3), row)
    each = 6 if row.front == "virtio-iommu" else 3
    assert sorted(op[:3] for op in done.ops) == [(g, v, k) for g in range(2) for v in range(3) for k in range(each)]


def test_what_a_row_refuses_is_said():
    with pytest.raises(InvalidInput, match=r"workload\.lazy"):
        textbook(one(**{"workload.lazy": True}), "virtio-iommu")
