"""The textbook is held to the prose: small cases that a reader can work out on paper, from the costs alone."""

import pytest

from smmu_lab.scenario import InvalidInput, Scenario, Smmu, Unmaps, approach, approaches, costs
from smmu_lab.sim.driver import SYNC_TIMEOUT
from smmu_lab.sim.textbook import textbook

C = costs("grace")
HOST = C.hsubmit + C.t_tlbi + C.t_sync  # one TLBI on the idle host queue
INSERT = C.g_fix + 2 * C.g_cmd  # one TLBI and its CMD_SYNC
FETCH = 2 * (2 * C.copy + C.conv)
WITH_BAD = C.g_fix + 3 * C.g_cmd  # TLBI, BAD, CMD_SYNC; if a vCPU rides along, its entries are there as early


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


# What goes wrong. Two vCPUs that unmap one page in step make one publication: TLBI, CMD_SYNC of vCPU 0, who publishes,
# then TLBI, BAD, CMD_SYNC of vCPU 1. With MSI words nobody polls; the driver's handler runs on vCPU 0, if that one is
# not in an issue call with interrupts off.


def struck(kind, *, vcpus=1, vcpu=0, after=1, **more):
    """The scenario of `one` with a fault in the first operation."""
    fault = {"fault.kind": kind, "fault.vcpu": vcpu, "fault.after": after}
    return one(**{"vcpus": vcpus, **fault, **more})


def two(kind, **more):
    """Two vCPUs in step, and BAD behind the TLBI of vCPU 1."""
    return struck(kind, vcpus=2, vcpu=1, **more)


def of_errors(counts):
    return {name: n for name in ("errors", "timeouts", "lost", "fixes") if (n := counts[name])}


def atc(devices, late=0):
    """So many ATC_INVs on the idle host queue."""
    return C.hsubmit + devices * C.t_atc + max(C.sync_occ, C.atc_rtt + late) + C.t_sync - C.sync_occ


MSI = {"completion": "msi-word"}
ONE_IOCTL = C.ioctl + C.copy + C.conv  # with one command
LOOK = 3 * C.exit_user + C.g_cmd  # the handler reads three registers and replaces the entry


def test_the_vmm_stops_at_an_illegal_command_until_the_driver_has_replaced_it():
    latencies, counts = run(two("illegal-command"), "qemu-today", **MSI)
    # 4 entries are decoded, 2 of them are TLBIs; vCPU 0 sees its word when its exit is over
    stop = WITH_BAD + C.exit_user + 4 * C.vmm_cmd + 2 * (ONE_IOCTL + HOST)
    # GERRORN is written by an exit like PROD's; in it the replaced entry and the CMD_SYNC are decoded
    resumed = stop + C.lpi + LOOK + C.exit_user + 2 * C.vmm_cmd
    assert latencies == [stop + C.cons_shared, resumed + C.cons_shared]
    assert of_errors(counts) == {"errors": 1}
    assert (counts["exits_vmm"], counts["host_syncs"]) == (1 + 3 + 1, 2)


def test_on_one_vcpu_the_handler_waits_until_the_driver_gives_up():
    latencies, counts = run(struck("illegal-command"), "qemu-today", **MSI)
    # the wait begins when the exit is over, and ends by the clock
    assert latencies == [WITH_BAD + C.exit_user + 2 * C.vmm_cmd + ONE_IOCTL + HOST + SYNC_TIMEOUT]
    assert of_errors(counts) == {"errors": 1, "timeouts": 1}


def test_who_polls_gives_up_before_a_step_and_not_within_one():
    latencies, counts = run(struck("illegal-command"), "qemu-today")
    waited, k, delay = 0, 1, 1000
    while waited <= SYNC_TIMEOUT:
        waited += (C.relax if k % 10 else delay) + C.exit_user
        delay *= 1 if k % 10 else 2
        k += 1
    assert latencies == [WITH_BAD + C.exit_user + 2 * C.vmm_cmd + ONE_IOCTL + HOST + waited]
    assert waited > SYNC_TIMEOUT + 10_000_000  # the last delay began before the second was over
    assert of_errors(counts) == {"errors": 1, "timeouts": 1}


@pytest.mark.parametrize(("reporting", "issued", "lost"), [("upstream", 0, 2), ("strict", HOST + C.t_tlbi, 0)])
def test_the_kernel_that_reads_the_queue_forgets_what_stands_before_an_unknown_streamid(reporting, issued, lost):
    latencies, counts = run(two("unknown-sid", **{"host.reporting": reporting}), "native-queue", **MSI)
    # TLBI, CMD_SYNC, TLBI, BAD are fetched; strict: both TLBIs are issued as one list. vCPU 0 goes on in either case
    stop = WITH_BAD + C.exit_user + C.ioctl + 2 * FETCH + issued
    # the replaced entry and the CMD_SYNC are fetched; no command is left, so the host's list is a CMD_SYNC only
    resumed = stop + C.lpi + LOOK + C.exit_user + C.ioctl + FETCH + C.hsubmit + C.t_sync
    assert latencies == [stop + C.cons_shared, resumed + C.cons_shared]
    assert of_errors(counts) == {"errors": 1} | ({"lost": lost} if lost else {})


@pytest.mark.parametrize(
    ("unsupported", "told", "counted"),
    [("stop-and-fix", C.fix + C.lpi, {"errors": 1, "fixes": 1}), ("error", C.sig + C.wake + C.lpi, {"errors": 1})],
)
def test_a_kernel_call_stops_behind_what_it_has_issued(unsupported, told, counted):
    latencies, counts = run(two("illegal-command"), "short-path-sync", unsupported=unsupported, **MSI)
    # 4 entries are fetched, both TLBIs issued as one list; a fix comes before CONS is stored, a signal after it
    issued = WITH_BAD + C.exit_kernel + 2 * FETCH + HOST + C.t_tlbi
    stop = issued + counted.get("fixes", 0) * C.fix
    resumed = issued + told + LOOK + C.exit_kernel + FETCH
    assert latencies == [stop + C.cons_shared, resumed + C.cons_shared]
    assert of_errors(counts) == counted
    assert (counts["exits_vmm"], counts["exits_kernel"], counts["host_syncs"]) == (3, 2, 1)


def test_a_worker_has_an_unknown_streamid_fixed_and_goes_on():
    latencies, counts = run(struck("unknown-sid"), "short-path", wake="constant", **MSI)
    woken = WITH_BAD + C.exit_kernel + C.sig + C.wake + C.capture
    assert latencies == [woken + FETCH + 2 * C.copy + C.conv + HOST + C.fix + C.cons_shared]
    assert of_errors(counts) == {"fixes": 1}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("per-command", ONE_IOCTL + C.hsubmit + C.t_atc + C.atc_rtt + C.t_sync - C.sync_occ),  # issued like an ATC_INV
        ("qemu-today", 0),
        ("batched", 0),
        ("batched-at-sync", 0),
    ],
)
def test_the_vmm_passes_over_an_unknown_streamid(name, more):
    latencies, counts = run(struck("unknown-sid"), name, **MSI)
    assert latencies == [WITH_BAD + C.exit_user + 3 * C.vmm_cmd + ONE_IOCTL + HOST + more + C.cons_shared]
    assert not of_errors(counts)


@pytest.mark.parametrize(("reporting", "issued", "lost"), [("upstream", 0, 2), ("strict", 1, 0)])
def test_a_batching_vmm_forgets_what_it_has_gathered_before_an_illegal_command(reporting, issued, lost):
    latencies, counts = run(two("illegal-command", **{"host.reporting": reporting}), "batched", **MSI)
    array = C.ioctl + 2 * (C.copy + C.conv) + HOST + C.t_tlbi  # both TLBIs
    stop = WITH_BAD + C.exit_user + 4 * C.vmm_cmd + issued * array
    resumed = stop + C.lpi + LOOK + C.exit_user + 2 * C.vmm_cmd
    assert latencies == [stop + C.cons_shared, resumed + C.cons_shared]
    assert of_errors(counts) == {"errors": 1} | ({"lost": lost} if lost else {})


def test_hardware_stops_where_the_list_before_is_complete():
    latencies, counts = run(two("illegal-command"), "bare-metal", **MSI)
    rung = WITH_BAD + C.mmio_w
    before = rung + C.t_tlbi + C.t_sync  # the list of CPU 0; the engine is through with the other TLBI earlier or later
    stop = max(before, rung + 2 * C.t_tlbi + C.sync_occ)
    resumed = stop + C.lpi + 3 * C.mmio_r + C.g_cmd + C.mmio_w + C.t_sync  # the replaced entry takes no time
    assert latencies == [before + C.cons_shared, resumed + C.cons_shared]
    assert of_errors(counts) == {"errors": 1}


def test_the_hypervisor_drops_an_unknown_streamid_from_an_overlay():
    latencies, counts = run(struck("unknown-sid"), "vcmdq-overlay")
    rung = WITH_BAD + C.mmio_w
    done = rung + C.t_tlbi + C.fix + C.mmio_w + C.t_sync  # the CMD_SYNC runs when the queue is restarted
    assert latencies == [seen(rung, done, C.mmio_r, C.mmio_r // 2)]
    assert of_errors(counts) == {"fixes": 1}


def test_a_stalled_device_is_waited_for():
    late = {"workload.ats_devices": 1, "fault.delay": 100_000}
    (latency,), counts = run(struck("stalled-device", **late), "bare-metal", **MSI)
    tlbi = INSERT + C.mmio_w + C.t_tlbi + C.t_sync + C.cons_shared
    answered = C.t_atc + C.atc_rtt + 100_000
    assert latency == tlbi + INSERT + C.mmio_w + answered + C.t_sync - C.sync_occ + C.cons_shared
    assert not of_errors(counts)


def test_a_vcmdq_stops_at_the_sync_behind_an_atc_inv_without_an_answer():
    gone = {"workload.ats_devices": 1, "costs.atc_timeout": 10_000_000}
    latencies, counts = run(struck("atc-timeout", vcpus=2, vcpu=1, **gone), "vcmdq", execution="parallel")
    read = C.mmio_r, C.mmio_r // 2
    rung = seen(INSERT + C.mmio_w, INSERT + C.mmio_w + C.t_tlbi + C.t_sync, *read) + INSERT + C.mmio_w
    answer = rung + C.t_atc + C.atc_rtt
    # the host has an interrupt, then the VMM a signal, then the guest its interrupt; vCPU 0 is through for long
    told = answer + 10_000_000 + C.lpi + C.sig + C.wake + C.lpi
    done = told + 3 * C.mmio_r + C.g_cmd + C.mmio_w + C.t_sync  # nothing is replaced: the CMD_SYNC runs again
    assert latencies == [seen(rung, answer + C.t_sync - C.sync_occ, *read), seen(rung, done, *read)]
    assert of_errors(counts) == {"errors": 1, "lost": 1}


@pytest.mark.parametrize(("reporting", "decoded", "again"), [("upstream", 3, 1), ("strict", 4, 2)])
def test_what_the_host_gave_up_is_consumed_again_from_where_the_kernel_reports(reporting, decoded, again):
    """Of three ATC_INVs upstream reports the second as the one that failed, strict the first: it alone is replaced."""
    late = {"workload.ats_devices": 3, "fault.delay": 1_500_000_000, "host.reporting": reporting}
    scenario = struck("stalled-device", **late).but({"workload.think": 0, "workload.ops": 2})
    (first, second), counts = run(scenario, "batched", **MSI)

    def array(commands):
        return C.ioctl + commands * (C.copy + C.conv)

    tlbi = INSERT + C.exit_user + 2 * C.vmm_cmd + array(1) + HOST + C.cons_shared
    atcs = C.g_fix + 4 * C.g_cmd + C.exit_user + 4 * C.vmm_cmd + array(3)
    # the host waits for a second from its PROD write, then the guest for one from the end of its exit
    assert first == tlbi + atcs + C.hsubmit + 2 * SYNC_TIMEOUT
    # then interrupts are on: the handler is first, and has the rest consumed again, for which the device is in time
    handled = LOOK + C.exit_user + decoded * C.vmm_cmd + array(again) + atc(again)
    assert second == handled + tlbi - C.g_fix + atcs + atc(3) + C.cons_shared
    assert of_errors(counts) == {"errors": 1, "timeouts": 2}


def test_the_worker_issues_again_what_the_host_gave_up():
    late = {"workload.ats_devices": 1, "fault.delay": 1_500_000_000, "workload.think": 0, "workload.ops": 2}
    (first, second), counts = run(struck("stalled-device", **late), "short-path-sync", **MSI)
    tlbi = INSERT + C.exit_kernel + FETCH + HOST + C.cons_shared
    atcs = INSERT + C.exit_kernel + FETCH
    assert first == tlbi + atcs + C.hsubmit + 2 * SYNC_TIMEOUT
    handled = LOOK + C.exit_kernel + FETCH + atc(1)  # CERROR_ATC_INV_SYNC: nothing is replaced
    assert second == handled + tlbi - C.g_fix + atcs + atc(1) + C.cons_shared
    assert of_errors(counts) == {"errors": 1, "timeouts": 2}


def test_native_queue_does_not_say_that_the_host_gave_up():
    late = {"workload.ats_devices": 2, "fault.delay": 1_500_000_000}
    (latency,), counts = run(struck("stalled-device", **late), "native-queue", **MSI)
    tlbi = INSERT + C.exit_user + C.ioctl + FETCH + HOST + C.cons_shared
    atcs = C.g_fix + 3 * C.g_cmd + C.exit_user + C.ioctl + 3 * (2 * C.copy + C.conv)
    assert latency == tlbi + atcs + C.hsubmit + SYNC_TIMEOUT + C.cons_shared
    assert of_errors(counts) == {"timeouts": 1}  # what was issued is late, not lost


def test_a_request_that_nobody_knows_is_taken_and_no_more():
    latencies, counts = run(struck("illegal-command"), "virtio-iommu")
    request = C.vq_add + C.exit_user + C.vq_take + C.cons_shared
    assert latencies == [request, request + C.ioctl + C.host_unmap + C.unpin + HOST]
    assert not of_errors(counts)


def test_requests_go_on_when_the_host_gives_up():
    late = {"workload.ats_devices": 2, "fault.delay": 1_500_000_000}
    (latency,), counts = run(struck("stalled-device", **late), "virtio-iommu")
    request = C.vq_add + C.exit_user + C.vq_take + C.ioctl + C.host_unmap + C.unpin + HOST + C.cons_shared
    assert latency == request + C.hsubmit + SYNC_TIMEOUT
    assert of_errors(counts) == {"timeouts": 1}
