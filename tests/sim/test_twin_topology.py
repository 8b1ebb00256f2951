"""In any topology the engine and the textbook are one model: to the nanosecond, and in every count.

First the textbook is held to small cases that a reader can work out on paper, as in `tests.sim.test_textbook`. Then
topologies, loads and machines are drawn at random; what an approach refuses is drawn anew. As in `tests.sim.test_twin`
a disagreement is excused if either twin disagrees with itself when ties are decided otherwise. Beside neighbours only
the operations of measured guests are compared: what a neighbour has begun when they are through is nobody's concern.
"""

import random
from collections import Counter

import pytest

from smmu_lab.scenario import InvalidInput, Topology, approach, approaches
from smmu_lab.sim import simulate
from smmu_lab.sim.textbook import textbook
from tests.sim import test_twin as twin
from tests.sim.test_textbook import FETCH, HOST, INSERT, MSI, ONE_IOCTL, C, atc, one, run

SOME = [
    {"completion": "msi-word"},
    {"worker": "vm"},
    {"worker": "host"},
    {"worker": "vm", "weight": 9},
    {"busy_poll": 5_000_000},
    {"worker": "host", "busy_poll": 5_000_000},
    {"host_group": 3},
    {"completion": "used-ring-irq"},
    {"kicks": "always", "worker": "vm"},
    {"arbitration": "round-robin"},
    {"execution": "parallel"},
    {"fallback": "short-path"},
    {"fallback": "batched-at-sync"},
]
"""Choices that topologies are about: who works for several vSMMUs, and what an SMMU has several of."""
TALLY = Counter()


# -- on paper ----------------------------------------------------------------------------------------------------------


def over(*vsmmus, ats=()):
    """A guest's vSMMUs by the numbers of the SMMUs of their devices, all in one domain; none is an emulated device.

    Devices behind the SMMUs of `ats` have ATS.
    """

    def device(k, smmu):
        return {"vsid": k, "smmu": smmu, "ats": smmu in ats} if smmu is not None else {"vsid": k, "kind": "emulated"}

    return {
        "vsmmus": [
            {"accel": None not in smmus, "devices": [device(k, smmu) for k, smmu in enumerate(smmus)]}
            for smmus in vsmmus
        ]
    }


def on(*layouts, **more):
    """The scenario of `tests.sim.test_textbook.one` with three SMMUs."""
    return one(**{"topology": Topology(smmus=3, layouts=layouts)} | more)


EXIT = INSERT + C.exit_user + 2 * C.vmm_cmd  # TLBI and CMD_SYNC are published and decoded


@pytest.mark.parametrize("name", ["per-command", "qemu-today", "batched", "batched-at-sync"])
def test_what_is_decoded_once_is_handed_over_to_every_smmu(name):
    latencies, counts = run(on(over((0, 1, 2))), name, **MSI)
    assert latencies == [EXIT + 3 * (ONE_IOCTL + HOST) + C.cons_shared]
    assert (counts["exits_vmm"], counts["ioctls"], counts["host_syncs"]) == (1, 3, 3)


def test_vsmmus_are_waited_for_one_after_the_other():
    latencies, counts = run(on(over((0,), (1, 2))), "qemu-today", **MSI)
    assert latencies == [2 * (EXIT + C.cons_shared) + 3 * (ONE_IOCTL + HOST)]
    assert (counts["exits_vmm"], counts["ioctls"]) == (2, 3)


def test_on_bare_metal_every_smmu_has_its_own_queue():
    latencies, _ = run(on(over((0, 1), (2,))), "bare-metal", **MSI)
    assert latencies == [3 * (INSERT + C.mmio_w + C.t_tlbi + C.t_sync + C.cons_shared)]


def test_an_array_has_the_atc_invs_of_one_smmu_only():
    latencies, counts = run(on(over((0, 1, 1), ats=(1,))), "batched", **MSI)
    atcs = C.g_fix + 3 * C.g_cmd + C.exit_user + 3 * C.vmm_cmd + C.ioctl + 2 * (C.copy + C.conv) + atc(2)
    assert latencies == [EXIT + 2 * (ONE_IOCTL + HOST) + C.cons_shared + atcs + C.cons_shared]
    assert (counts["ioctls"], counts["host_syncs"]) == (3, 3)


def test_v1_fans_out_behind_every_smmu():
    """Two TLBI ioctls, one of which is also for two devices; then one ioctl for each ATC_INV."""
    latencies, counts = run(on(over((0, 1, 1), ats=(1,))), "per-command", **MSI)
    devices = 2 * C.conv + atc(2)
    tlbi = EXIT + 2 * (ONE_IOCTL + HOST) + devices + C.cons_shared
    atcs = C.g_fix + 3 * C.g_cmd + C.exit_user + 3 * C.vmm_cmd + 2 * (C.ioctl + C.copy + devices) + C.cons_shared
    assert latencies == [tlbi + atcs]
    assert (counts["ioctls"], counts["host_syncs"]) == (4, 5)


@pytest.mark.parametrize(("name", "late"), [("per-command", 3), ("qemu-today", 1)])
def test_a_stalled_device_is_late_in_every_list_that_reaches_it(name, late):
    """In v1 every command is for all devices of the domain; else it is the first ATC_INV's."""
    quick, _ = run(on(over((0, 0), ats=(0,))), name, **MSI)
    slow, _ = run(on(over((0, 0), ats=(0,)), **{"workload.stall": 100_000}), name, **MSI)
    per_list = atc(1, 100_000) - atc(1)
    assert slow[0] - quick[0] == late * per_list


def test_the_kernel_reads_a_native_queue_again_for_every_smmu():
    latencies, counts = run(on(over((0, 1), ats=(1,))), "native-queue", **MSI)
    tlbi = INSERT + C.exit_user + 2 * (C.ioctl + FETCH + HOST) + C.cons_shared
    only_sync = C.hsubmit + C.t_sync
    atcs = INSERT + C.exit_user + 2 * (C.ioctl + FETCH) + only_sync + atc(1) + C.cons_shared
    assert latencies == [tlbi + atcs]
    assert (counts["ioctls"], counts["host_syncs"]) == (4, 4)


def test_a_kernel_that_consumes_reads_once_and_rewrites_for_every_smmu():
    latencies, counts = run(on(over((0, 1, 2), ats=(1,))), "short-path-sync", **MSI)
    tlbi = INSERT + C.exit_kernel + FETCH + 3 * HOST + 2 * C.conv + C.cons_shared
    assert latencies == [tlbi + INSERT + C.exit_kernel + FETCH + atc(1) + C.cons_shared]
    assert (counts["exits_kernel"], counts["host_syncs"]) == (2, 4)


def test_a_vsmmu_for_emulated_devices_is_the_vmms_alone():
    latencies, counts = run(on(over((0,), (None,))), "short-path-sync", **MSI)
    real = INSERT + C.exit_kernel + FETCH + HOST + C.cons_shared
    assert latencies == [real + EXIT + C.relax + C.exit_user]  # there qemu-today reads CONS by an exit
    assert counts == {"exits_kernel": 1, "exits_vmm": 2, "host_syncs": 1, "cons_reads": 1}


def test_the_host_knows_the_smmus_of_an_unmap_exactly():
    latencies, counts = run(on(over((0, 2))), "virtio-iommu")
    taken = C.vq_add + C.exit_user + C.vq_take
    assert latencies == [taken + C.ioctl + C.host_unmap + C.unpin + 2 * HOST + C.cons_shared]
    assert (counts["ioctls"], counts["host_syncs"]) == (1, 2)


@pytest.mark.parametrize("name", ["virtio-iommu", "vhost-iommu"])
def test_a_request_for_emulated_devices_is_only_taken(name):
    latencies, counts = run(on(over((None,)), **{"workload.maps": 1}), name)
    assert latencies == 2 * [C.vq_add + C.exit_user + C.vq_take + C.cons_shared]
    assert counts == {"exits_vmm": 2}


@pytest.mark.parametrize(("placement", "before"), [("any", HOST), ("pinned", HOST + C.conv + HOST)])
def test_a_pinned_worker_waits_for_its_own_cpu(placement, before):
    """The worker of guest 2 for that of guest 0, which has two SMMUs to see to; else for that of guest 1 with one."""
    guests = on(over((0, 1)), over((2,)), over((2,)), guests=3)
    done = textbook(
        guests.but({"host.placement": placement, "host.worker_cpus": 2}),
        approach("short-path").but(wake="constant", **MSI),
    )
    (latency,) = [op[4] for op in done.ops if op[0] == 2]
    drain = C.capture + FETCH
    assert latency == INSERT + C.exit_kernel + C.sig + C.wake + drain + before + drain + HOST + C.cons_shared


def test_a_neighbour_goes_on_until_the_others_are_through():
    load = one(**{"workload.think": 100_000}).workload
    beside = {"guests": 2, "neighbour.guests": 1, "neighbour.workload": load}
    done = textbook(on(over((0,)), over((1,)), **beside), approach("short-path-sync").but(MSI))
    each = INSERT + C.exit_kernel + FETCH + HOST + C.cons_shared
    assert [op for op in done.ops if op[0] == 0] == [(0, 0, 0, 1_000_000, each)]
    starts = range(100_000, 1_000_000 + each, 100_000 + each)
    assert [op for op in done.ops if op[0] == 1] == [(1, 0, k, start, each) for k, start in enumerate(starts)]


# -- both twins --------------------------------------------------------------------------------------------------------


def variants():
    """Every row of the catalogue with every one of these choices that it can make."""
    for row in approaches():
        for changes in SOME:
            try:
                changed = row.but(changes)
            except InvalidInput:
                continue
            if changed.values() != row.values() | {"name": changed.name}:
                yield f"{row.name} {', '.join(f'{column}={value}' for column, value in changes.items())}", changed


VARIANTS = dict(variants())


def random_vsmmu(rng, smmus, ats, domains):
    """Over one to three SMMUs with up to three devices each, or for emulated devices, or for both, or for nothing."""
    over = rng.sample(range(smmus), min(smmus, rng.choice((0, 1, 1, 2, 3))))
    devices = [
        {"smmu": smmu, "ats": rng.random() < ats, "domain": rng.choice(domains)}
        for smmu in over
        for _ in range(rng.randint(1, 3))
    ]
    emulated = rng.random() < (0.15 if over else 0.9)
    if emulated:
        devices += [{"kind": "emulated", "domain": rng.choice(domains)} for _ in range(rng.randint(1, 2))]
    rng.shuffle(devices)
    return {"accel": not emulated, "devices": [each | {"vsid": 8 + k} for k, each in enumerate(devices)]}


def random_topology(rng, ats):
    """One to four SMMUs; domains are many or one, and span vSMMUs or do not; layouts differ from guest to guest."""
    smmus = rng.randint(1, 4)
    layouts = []
    for _ in range(rng.randint(1, 2)):
        shared = rng.random() < 0.5
        names = [["a"], ["a", "b"], ["a", "b", "c"]][rng.randrange(3)]
        vsmmus = [
            random_vsmmu(rng, smmus, ats, names if shared else [f"{name}{k}" for name in names])
            for k in range(rng.randint(1, 3))
        ]
        there = [each["domain"] for vsmmu in vsmmus for each in vsmmu["devices"]]
        drives = rng.sample(there, rng.randint(1, len(there))) if there and rng.random() < 0.3 else []
        layouts.append({"vsmmus": vsmmus, "drives": drives})
    return Topology(name="random", smmus=smmus, layouts=layouts)


def random_neighbours(rng, row):
    """Guests beside the measured ones, with a load of their own; the last flush of lazy ones is measured, too."""
    think = {"workload.think": twin.TICK * rng.choice((20_000, 200_000)) + rng.randrange(1000)}
    load = twin.random_scenario(rng.randrange(1 << 30), **{"workload.ats_devices": 0} | think).workload
    if row.front == "virtio-iommu":
        load = load.but(lazy=False, cd_every=0)
    guests = {"guests": rng.randint(2, 3), "neighbour.guests": 1, "neighbour.workload": load}
    return guests | {"workload.lazy": rng.random() < 0.4}


def any_scenario(rng, row, beside):
    """A scenario, with topology and perhaps neighbours, that may be refused."""
    ats = 0 if row.completion == "msi-word" else rng.choice((0, 0.5, 1))  # see `twin.possible`
    fixed = {
        "topology": random_topology(rng, ats),
        "workload.ats_devices": 0,
        "workload.stall": rng.choice((0, 0, 0, 0, 0, rng.randrange(1_000_000, 100_000_000))),
        "host.placement": rng.choice(("any", "pinned")),
        "host.worker_cpus": rng.choice((1, 2, 3)),
    }
    if rng.random() < beside:
        fixed |= random_neighbours(rng, row)
    return twin.random_scenario(rng.randrange(1 << 30), **fixed)


def random_scenario(seed, row, beside=0.2):
    """A scenario that the approach does not refuse; `beside`: how probable neighbours are."""
    rng = random.Random(f"topology {seed}")
    while True:
        try:
            scenario = twin.possible(any_scenario(rng, row, beside), row)
        except InvalidInput:  # a stall without ATS, a CFGI_CD to several SMMUs, a guest without devices
            continue
        if not scenario.refuses(row):
            return scenario


def of_the_measured(outcome):
    """Of a twin."""

    def of(scenario, row, *more):
        ops, counts = outcome(scenario, row, *more)
        return {op for op in ops if not scenario.is_neighbour(op[0])}, {} if scenario.neighbour.guests else counts

    return of


@pytest.fixture(autouse=True)
def no_neighbours(monkeypatch):
    for name in ("engine", "by_the_book"):
        monkeypatch.setattr(twin, name, of_the_measured(getattr(twin, name)))


def check(row, seeds, **more):
    verdicts = {seed: twin.agree(random_scenario(seed, row, **more), row) for seed in seeds}
    different = [seed for seed, verdict in verdicts.items() if verdict is False]
    assert not different, f"{row.name}: engine and textbook differ in scenarios {different}"
    TALLY["runs"] += len(verdicts)
    TALLY["tied"] += sum(verdict is None for verdict in verdicts.values())


@pytest.mark.parametrize("row", approaches(), ids=lambda row: row.name)
def test_engine_and_textbook_agree_in_any_topology(row):
    check(row, range(8))


@pytest.mark.parametrize("row", VARIANTS.values(), ids=VARIANTS)
def test_they_agree_in_it_in_every_column(row):
    check(row, range(1000, 1004))


@pytest.mark.parametrize("row", approaches(), ids=lambda row: row.name)
def test_they_agree_beside_neighbours(row):
    check(row, range(3005, 3017), beside=1)


@pytest.mark.parametrize("row", approaches(), ids=lambda row: row.name)
def test_they_agree_on_what_every_smmu_runs_for_every_queue(row):
    for seed in range(2000, 2003):
        scenario = random_scenario(seed, row).but({"neighbour.guests": 0})
        ran = Counter()
        for each in simulate(scenario, row).issued.rows():
            for name, column in (("TLBI", "tlbi"), ("ATC_INV", "atc"), ("CMD_SYNC", "syncs")):
                ran[(each["guest"], each["queue"]), each["smmu"], name] += each[column]
        assert +ran == textbook(scenario, row).ran, seed


def test_at_most_one_run_in_fifty_hangs_on_a_tie(capsys):
    """Of all that ran above."""
    with capsys.disabled():
        print(f"\ntwin, topologies: {TALLY['runs']:,} runs compared, {TALLY['tied']} hang on a tie")
    assert TALLY["tied"] <= max(1, TALLY["runs"] // 50)
