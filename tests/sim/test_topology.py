"""What must hold on any machine of several SMMUs and vSMMUs: what each SMMU runs, and who does not disturb whom.

What is expected follows from the description and the catalogue's words alone: an unmap of n pages without range
invalidation is n TLBIs, and an ATC_INV for each device with ATS of its domain, in lists of at most 64.
"""

from collections import Counter, defaultdict
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smmu_lab.record import KINDS
from smmu_lab.scenario import Host, Scenario, Smmu, Unmaps, approach, approaches
from smmu_lab.scenario.topology import Topology
from smmu_lab.sim import simulate
from tests.scenario.test_topology import ROWS, topologies
from tests.sim.test_invariants import bits

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
of_guests = pytest.mark.parametrize("row", [row for row in ROWS if not row.on_metal], ids=lambda row: row.name)
UNMAP = KINDS.index("unmap")


@st.composite
def scenarios(draw, row, topology=None, **fixed):
    """Small runs on any topology; more than one list to an unmap only where no other vCPU can gather it."""
    topology = topology or draw(topologies(row))
    vcpus = draw(st.integers(1, 3))
    spans = any(len(vsmmu.smmus) > 1 for layout in topology.layouts for vsmmu in layout.vsmmus)
    load = {
        "pages": draw(st.sampled_from((1, 3, 60) if vcpus > 1 else (1, 64, 65, 130))),
        "think": draw(st.sampled_from((0, 1_000, 50_000))),
        "maps": draw(st.integers(0, 1)),
        "ops": draw(st.integers(1, 5)),
    }
    if row.front != "virtio-iommu":
        load["cd_every"] = 0 if spans else draw(st.sampled_from((0, 2)))
        load["lazy"] = draw(st.integers(0, 3)) == 0
    made = Scenario(
        topology=topology,
        workload=Unmaps(**load),
        smmu=Smmu(ril=False, sids=64),
        host=Host(worker_cpus=draw(st.integers(1, 3)), placement=draw(st.sampled_from(("any", "pinned")))),
        guests=draw(st.integers(1, 3)),
        vcpus=vcpus,
        seed=draw(st.integers(0, 99)),
    )
    return made.but(fixed)


# -- conservation ----------------------------------------------------------------------------------------------------


def in_lists(commands):
    """A batch as the driver cuts it: full lists of 64, and the rest."""
    full = (commands - 1) // 64
    return [64] * full + [commands - 64 * full]


def gathers(row):
    """Lists of several vCPUs may come into one ioctl, or one pass."""
    return row.nested and not row.executes_directly and row.handoff not in ("marshalled", "per-command")


def host_syncs(row, lists):
    """At least, at most so many CMD_SYNCs of the host's end the commands that are for one SMMU in a batch's lists."""
    most = {
        "per-command": sum(lists),
        "array": sum(ceil(each / 63) for each in lists),
        "array-at-sync": ceil(sum(lists) / 63),
        "queue": len(lists),
        "none": sum(each > 0 for each in lists),
    }[row.handoff]
    return min(1, most) if row.has_worker else most, most


class Ledger:
    """What each SMMU is to run for each queue of a guest, and for which of its vCPUs."""

    def __init__(self, scenario, row):
        self.load, self.row = scenario.workload, row
        self.due = defaultdict(lambda: [0, 0, 0])
        self.least = defaultdict(Counter)
        self.served = {}
        self.switches = self.load.ops // self.load.cd_every if self.load.cd_every else 0
        for guest in range(scenario.guests):
            for vcpu in range(scenario.vcpus):
                (self.metal if row.on_metal else self.vcpu)(scenario, guest, vcpu)

    def bounds(self, place):
        """At least, at most so many CMD_SYNCs: gathered lists share one, those of one vCPU never."""
        least = self.least[place].values()
        return max(least) if gathers(self.served.get(place, self.row)) else sum(least), self.due[place][2]

    def add(self, place, vcpu, tlbi, atc, syncs, times):
        for k, number in enumerate((tlbi, atc, syncs[1])):
            self.due[place][k] += times * number
        self.least[place][vcpu] += times * syncs[0]

    def batch(self, row, place, vcpu, tlbi, atc, all_atc, fan, times):
        """A batch of TLBIs, or of ATC_INVs; `atc` of these are for this SMMU, behind which are `fan` devices."""
        if row.executes_directly:
            self.add(place, vcpu, tlbi, atc, (1, 1), times)
        elif row.handoff == "marshalled":
            syncs = tlbi * (1 + (fan > 0)) + all_atc * (fan > 0)
            self.add(place, vcpu, tlbi, (tlbi + all_atc) * fan, (syncs, syncs), times)
        else:
            self.add(place, vcpu, tlbi, atc, host_syncs(row, in_lists(tlbi) if tlbi else [atc]), times)

    def unmaps(self, place, vcpu, atc, all_atc):
        """All unmaps of a vCPU: each for itself, or in lazy mode one flush by the timer."""
        tlbi, times = (1, 1) if self.load.lazy else (self.load.pages, self.load.ops)
        self.batch(self.row, place, vcpu, tlbi, 0, 0, atc, times)
        if all_atc:
            self.batch(self.row, place, vcpu, 0, atc, all_atc, atc, times)

    def switch(self, place, trapped, vcpu, fan):
        """Each CFGI_CD: to the queue that traps, or fixed by the hypervisor beside the guest's own CMD_SYNC."""
        if trapped:
            self.served[trapped] = approach(self.row.fallback)
            self.batch(self.served[trapped], trapped, vcpu, 1, 0, 0, fan, self.switches)
        elif self.row.executes_directly:
            syncs = 1 + self.row.has_vcmdqs
            self.add(place, vcpu, 1, 0, (syncs, syncs), self.switches)
        else:
            self.batch(self.row, place, vcpu, 1, 0, 0, fan, self.switches)

    def vcpu(self, scenario, guest, vcpu):
        layout, row = scenario.layout(guest), self.row
        domain = layout.driven[vcpu % len(layout.driven)]
        queue = 0
        for vsmmu in layout.vsmmus:
            several = row.queues == "cmdq+vcmdq" and vsmmu.smmus
            mine = [each for each in vsmmu.devices if each.domain == domain and each.kind != "bridge"]
            ats = Counter(each.smmu for each in mine if each.ats)
            for smmu in vsmmu.smmus if mine else ():
                place = guest, queue + (vcpu % row.vcmdqs if several else 0), smmu
                if row.front != "virtio-iommu":
                    self.unmaps(place, vcpu, ats[smmu], ats.total())
                    self.switch(place, (guest, queue + row.vcmdqs, smmu) if several else (), vcpu, ats[smmu])
                elif any(each.kind == "passthrough" and each.smmu == smmu for each in mine):
                    self.add(place, vcpu, self.load.pages, ats[smmu], (1 + (ats[smmu] > 0),) * 2, self.load.ops)
            queue += row.vcmdqs + 1 if several else 1

    def metal(self, scenario, guest, vcpu):
        layout = scenario.layout(guest)
        domain = layout.driven[vcpu % len(layout.driven)]
        devices = [each for vsmmu in layout.vsmmus for each in vsmmu.devices
                   if each.domain == domain and each.kind != "bridge"]  # fmt: skip
        for smmu in {each.smmu for each in devices}:
            ats = sum(each.ats and each.smmu == smmu for each in devices)
            place = (guest, smmu * scenario.vcpus + vcpu, smmu) if self.row.queues == "ecmdq" else (0, smmu, smmu)
            self.unmaps(place, vcpu, ats, ats)
            self.switch(place, (), vcpu, ats)


@every_row
@settings(max_examples=20)
@given(draw=st.data())
def test_every_smmu_runs_what_the_description_says_and_no_more(row, draw):
    """I-4 on each SMMU: TLBIs on all that a vSMMU spans, ATC_INVs on their device's own, CMD_SYNCs as lists."""
    scenario = draw.draw(scenarios(row))
    ledger = Ledger(scenario, row)
    ran = {(each["guest"], each["queue"], each["smmu"]): each for each in simulate(scenario, row).issued.rows()}
    due = {place: number for place, number in ledger.due.items() if any(number)}
    assert sorted(ran) == sorted(due)
    for place, (tlbi, atc, _) in due.items():
        least, most = ledger.bounds(place)
        assert (ran[place]["tlbi"], ran[place]["atc"]) == (tlbi, atc), place
        assert least <= ran[place]["syncs"] <= most, place


@every_row
@settings(max_examples=6)
@given(draw=st.data())
def test_what_smmus_run_is_what_was_counted(row, draw):
    scenario = draw.draw(scenarios(row))
    run = simulate(scenario, row)
    issued = {name: sum(run.issued[name]) for name in ("tlbi", "atc", "syncs")}
    if not row.executes_directly:
        assert issued["syncs"] == run.counts.host_syncs
        assert sum(issued.values()) == run.counts.host_commands
    assert run.counts.timeouts == 0
    for _, _, prod, cons in run.queues:
        assert prod == cons
    assert sum(run.batches["commands"]) == run.counts.commands


@every_row
@settings(max_examples=10)
@given(draw=st.data())
def test_nothing_reaches_an_smmu_behind_which_the_guest_has_no_device(row, draw):
    scenario = draw.draw(scenarios(row))
    behind = {
        guest: {each.smmu for vsmmu in scenario.layout(guest).vsmmus for each in vsmmu.devices
                if each.kind == "passthrough"}
        for guest in range(scenario.guests)
    }  # fmt: skip
    together = set().union(*behind.values())
    for each in simulate(scenario, row).issued.rows():
        assert each["smmu"] in (together if row.name == "bare-metal" else behind[each["guest"]])


@of_guests
@settings(max_examples=10)
@given(draw=st.data())
def test_what_the_vmm_emulates_reaches_no_smmu(row, draw):
    """A vSMMU of its own for emulated devices is served by the VMM, makes no ioctl, and costs exits all the same."""
    topology = Topology.preset("per-smmu", drives=["emulated"])
    scenario = draw.draw(scenarios(row, topology))
    counts = simulate(scenario, row).counts
    assert len(simulate(scenario, row).issued) == 0
    assert (counts.ioctls, counts.host_commands, counts.exits_kernel, counts.wakes) == (0, 0, 0, 0)
    assert counts.exits_vmm >= 1


# -- the record ------------------------------------------------------------------------------------------------------


@every_row
@settings(max_examples=10)
@given(draw=st.data())
def test_stages_sum_to_the_latency(row, draw):
    """In a closed loop with constant think time the latency is the time to the next start, less the think time."""
    think = 30_011
    fixed = {"think": think, "spread": "constant", "maps": 0, "ops": 4, "lazy": False, "cd_every": 0}
    scenario = draw.draw(scenarios(row, **{f"workload.{name}": value for name, value in fixed.items()}))
    run = simulate(scenario, row)
    by_vcpu = defaultdict(list)
    for op, latency in zip(run.ops.rows(), run.latencies, strict=True):
        by_vcpu[op["guest"], op["vcpu"]].append((op["start"], latency))
    assert len(by_vcpu) == scenario.guests * scenario.vcpus
    for ops in by_vcpu.values():
        assert ops[0][0] == think
        assert [b - a - think for (a, _), (b, _) in pairwise(ops)] == [latency for _, latency in ops[:-1]]


@every_row
@settings(max_examples=5)
@given(draw=st.data())
def test_same_seed_same_bits(row, draw):
    """I-36."""
    scenario = draw.draw(scenarios(row))
    one, two = simulate(scenario, row), simulate(scenario, row)
    assert bits(one) == bits(two)
    assert list(one.issued.rows()) == list(two.issued.rows())


@every_row
@pytest.mark.parametrize("devices", [0, 1, 3])
@pytest.mark.parametrize("lazy", [False, True])
def test_one_vsmmu_over_one_smmu_is_the_plain_scenario_bit_for_bit(row, devices, lazy):
    if lazy and row.front == "virtio-iommu":
        lazy = False
    load = Unmaps(pages=66, ops=12, think=4_000, lazy=lazy)
    plain = Scenario(workload=load.but(ats_devices=devices), smmu=Smmu(ril=False), vcpus=3, guests=2)
    for preset in ("one-smmu", "broadcast"):
        topology = Topology.preset(preset, smmus=1, devices=max(1, devices), ats=devices > 0)
        one, other = simulate(plain, row), simulate(plain.but(workload=load, topology=topology), row)
        assert bits(one) == bits(other)
        assert list(one.issued.rows()) == list(other.issued.rows())


@of_guests
def test_a_vsmmu_for_emulated_devices_costs_those_nothing_that_do_not_use_it(row):
    load = Unmaps(pages=66, ops=12, think=4_000)
    plain = Scenario(workload=load, smmu=Smmu(ril=False), vcpus=3, guests=2)
    beside = plain.but(topology=Topology.preset("per-smmu", smmus=1, drives=["d0"]))
    one, other = simulate(plain, row), simulate(beside, row)
    assert list(one.ops.rows()) == list(other.ops.rows())
    assert list(one.batches.rows()) == list(other.batches.rows())


# -- who disturbs whom -----------------------------------------------------------------------------------------------


def relabelled(topology, names):
    """The same machine, SMMU k named `names[k]`."""
    data = topology.to_dict()
    for layout in data["layouts"]:
        for vsmmu in layout["vsmmus"]:
            for device in vsmmu["devices"]:
                if device["kind"] == "passthrough":
                    device["smmu"] = names[device["smmu"]]
    return Topology(**data | {"smmus": 8})


@every_row
@settings(max_examples=8)
@given(draw=st.data())
def test_numbers_of_smmus_are_names(row, draw):
    """Kept in order where somebody goes through them in order: a vSMMU that spans several, or bare metal."""
    scenario = draw.draw(scenarios(row))
    topology = scenario.topology
    names = draw.draw(st.permutations(range(8)))[: topology.smmus]
    if row.on_metal or any(len(vsmmu.smmus) > 1 for layout in topology.layouts for vsmmu in layout.vsmmus):
        names = sorted(names)
    run = simulate(scenario, row)
    other = simulate(scenario.but(topology=relabelled(topology, names)), row)
    assert list(run.ops.rows()) == list(other.ops.rows())
    ran = Counter({each["smmu"]: each["tlbi"] for each in run.issued.rows()})
    assert {names[smmu]: tlbi for smmu, tlbi in ran.items()} == {
        each["smmu"]: each["tlbi"] for each in other.issued.rows()
    }


def own_smmus(guests, shared=False):
    """Each guest has devices behind an SMMU of its own, or all behind the same."""
    layouts = [{"vsmmus": [{"devices": [{"vsid": 8, "smmu": 0 if shared else g, "ats": True}]}]} for g in range(guests)]
    return Topology(name="apart", smmus=guests, layouts=layouts)


def of_guest(run, guest=0):
    return [op for op in run.ops.rows() if op["guest"] == guest]


APART = [row for row in ROWS if row.worker != "host"]


@pytest.mark.parametrize("row", APART, ids=lambda row: row.name)
def test_guests_behind_smmus_of_their_own_do_not_disturb_each_other(row):
    """Each has a VMM or threads of its own, and CPUs are plenty; behind the same SMMU they meet in its engine."""
    load = Unmaps(pages=20, ops=30, think=3_000)
    scenario = Scenario(workload=load, smmu=Smmu(ril=False), host=Host(worker_cpus=64), vcpus=2)
    alone = of_guest(simulate(scenario.but(topology=own_smmus(1)), row))
    together = scenario.but(guests=4, topology=own_smmus(4))
    assert of_guest(simulate(together, row)) == alone
    met = of_guest(simulate(together.but(topology=own_smmus(4, shared=True)), row)) != alone
    assert met == (row.execution == "serial")


@pytest.mark.parametrize("row", [row for row in APART if not row.on_metal], ids=lambda row: row.name)
def test_vsmmus_of_one_guest_share_the_vmm_and_its_thread_and_nothing_else(row):
    """So a kernel worker, an exit to the kernel and the hardware keep them apart, and the VMM's big lock does not."""
    load = Unmaps(pages=20, ops=30, think=3_000)
    topology = Topology.preset("per-smmu", smmus=4, drives=["d0", "d1", "d2", "d3"])
    scenario = Scenario(workload=load, smmu=Smmu(ril=False), host=Host(worker_cpus=64), topology=topology)
    apart = row.consumer != "vmm" and row.worker == "queue"

    def first(run):
        return [op for op in run.ops.rows() if op["vcpu"] == 0]

    assert (first(simulate(scenario.but(vcpus=4), row)) == first(simulate(scenario, row))) == apart


# -- neighbours ------------------------------------------------------------------------------------------------------


@every_row
@settings(max_examples=10)
@given(draw=st.data())
def test_neighbours_go_on_until_the_others_are_through_and_are_not_measured(row, draw):
    busy = Unmaps(pages=draw.draw(st.sampled_from((1, 70))), think=draw.draw(st.sampled_from((0, 2_000))), ops=1)
    fixed = {"guests": 3, "neighbour": {"guests": draw.draw(st.integers(1, 2)), "workload": busy}, "workload.ops": 5,
             "workload.lazy": False}  # fmt: skip
    scenario = draw.draw(scenarios(row, **fixed))
    run = simulate(scenario, row)
    first = 3 - scenario.neighbour.guests
    ops = list(zip(run.ops.rows(), run.latencies, strict=True))
    mine = [op["start"] + latency for op, latency in ops if op["guest"] < first]
    assert len(run.measured) == first * scenario.vcpus * 5
    assert {run.ops["guest"][k] for k in run.measured} == set(range(first))
    late = Counter((op["guest"], op["vcpu"]) for op, _ in ops if op["guest"] >= first and op["start"] > max(mine))
    requests = 1 + busy.maps
    assert max(late.values(), default=0) <= (requests if row.front == "virtio-iommu" else 1)


def test_neighbours_keep_everybody_busy():
    """However short the list of what they do is, it is done again and again."""
    load = Unmaps(pages=4, ops=50, think=80_000)
    busy = {"guests": 1, "workload": {"pages": 4, "think": 0, "ops": 1}}
    scenario = Scenario(workload=load, guests=2, vcpus=2, neighbour=busy)
    for row in approaches():
        run = simulate(scenario, row)
        assert len(run.measured) == 100
        assert len(of_guest(run, 1)) > 2 * 100
