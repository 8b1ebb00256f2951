"""What is said of loads and layouts is about the guests that have them."""

import pytest

import smmu_lab as lab
from smmu_lab.scenario import InvalidInput, Scenario, Topology, approach, approaches, wire


def behind(number, ats=False, **more):
    """A vSMMU with so many devices behind one SMMU."""
    return {"devices": [{"vsid": 8 * k, "ats": ats} | more for k in range(1, number + 1)]}


def two(measured, neighbour, **workload):
    layouts = [{"vsmmus": measured}, {"vsmmus": neighbour}]
    return {"guests": 2, "neighbour": {"guests": 1}, "workload": workload, "topology": {"smmus": 2, "layouts": layouts}}


SPANS = {"devices": [{"vsid": 8, "smmu": 0}, {"vsid": 16, "smmu": 1}]}


@pytest.mark.parametrize(
    "scenario",
    [
        two([behind(1, ats=True)], [behind(64, ats=True)], stall="1us"),
        two([behind(1)], [SPANS], cd_every=2),
        two([behind(1)], [behind(1), behind(1)], kind="recorded", trace=next(iter(lab.traces()))),
    ],
)
def test_a_neighbours_layout_does_not_matter_to_the_measured_guests_load(scenario):
    made = Scenario(**scenario)
    assert made.neighbour.guests == 1


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        (two([behind(1)], [behind(1, ats=True)], stall="1us"), "workload.stall: 1 µs cannot be with 0 devices"),
        (two([SPANS], [behind(1)], cd_every=2), "workload.cd_every: 2 cannot be where a vSMMU spans"),
        (two([behind(40, True)] * 2, [behind(1)], stall="1us"), "workload.stall: 1 µs cannot be with 80 devices"),
        (two([behind(1)], [behind(1)], ats_devices=1), "workload.ats_devices: 1 is not valid: 0"),
        ({"neighbour": {"guests": 1}}, "neighbour.guests: 1 is not valid: fewer than guests (1)"),
        (
            {"guests": 2, "neighbour": {"guests": 1, "workload": {"think": 0}}, "costs": {"vq_add": 0}},
            "neighbour.workload.think: 0 is not valid: above 0 where",
        ),
    ],
)
def test_a_load_that_its_own_layout_cannot_have_is_refused(scenario, said):
    with pytest.raises(InvalidInput, match=said.replace("(", r"\(").replace(")", r"\)")):
        Scenario(**scenario)


@pytest.mark.parametrize(("field", "value"), [("lazy", True), ("cd_every", 3)])
@pytest.mark.parametrize("name", ["virtio-iommu", "vhost-iommu"])
def test_a_neighbours_load_is_refused_like_a_measured_one(field, value, name):
    beside = Scenario(guests=2, neighbour={"guests": 1, "workload": {field: value}})
    (said,) = beside.refuses(approach(name))
    assert said.startswith(f"neighbour.workload.{field}: {value}")


@pytest.mark.parametrize(("field", "value"), [("pages", 0), ("pagse", 3)])
def test_a_problem_of_a_neighbours_load_has_its_path(field, value):
    ways = (
        lambda: Scenario(guests=2, neighbour={"guests": 1, "workload": {field: value}}),
        lambda: Scenario(guests=2).but({"neighbour.guests": 1, f"neighbour.workload.{field}": value}),
    )
    for way in ways:
        with pytest.raises(InvalidInput, match=rf"^neighbour\.workload\.{field}: "):
            way()


def test_a_whole_and_its_parts_can_change_together():
    made = Scenario().but({"costs": "n1", "costs.exit_kernel": "2us", "topology": "per-smmu", "topology.name": "mine"})
    assert (made.costs.profile, made.costs.exit_kernel, made.topology.name) == ("n1", 2_000, "mine")


def test_presets_have_room_for_64_devices_behind_each_of_64_smmus():
    topology = Topology.preset("broadcast", smmus=64, devices=64)
    assert len(topology.layouts[0].vsmmus[0].devices) == 64 * 64


@pytest.mark.parametrize("given", [{"ats": 1}, {"shared": "x"}, {"drives": "d0"}, {"devices": 65}, {"smmus": True}])
def test_a_preset_says_which_of_its_arguments_is_wrong(given):
    (name,) = given
    with pytest.raises(InvalidInput, match=rf"^topology\.{name}"):
        Topology.preset("per-smmu", **given)
    with pytest.raises(InvalidInput, match=rf"^topology\.{name}"):
        Scenario(topology={"preset": "per-smmu"} | given)


@pytest.mark.parametrize("name", ["vcpu0", "smmu3", "vmm"])
@pytest.mark.parametrize("what", ["vSMMU", "domain"])
def test_names_of_the_labs_own_are_refused(name, what):
    vsmmu = behind(1) | {"name": name} if what == "vSMMU" else behind(1, domain=name)
    with pytest.raises(InvalidInput, match=rf"guest -> {name} breaks the rule 'duplicate-name'"):
        Topology(layouts=[{"vsmmus": [vsmmu]}])


def test_devices_of_one_name_stay_apart_on_bare_metal():
    topology = {"smmus": 2, "layouts": [{"vsmmus": [behind(1, ats=True), behind(1, smmu=1)]}]}
    graph = wire(Scenario(topology=topology), approach("bare-metal"))
    devices = [about["ats"] for _, about in graph.nodes(data=True) if about["kind"] == "device"]
    assert devices == [True, False]


@pytest.mark.parametrize("device", [{"kind": "bridge", "ats": True}, {"kind": "bridge", "smmu": 1}])
def test_what_only_a_passthrough_device_has_is_refused_elsewhere(device):
    with pytest.raises(InvalidInput):
        Topology(smmus=2, layouts=[{"vsmmus": [behind(1), {"devices": [device]}]}])


def test_a_fallback_that_keeps_commands_from_the_vmm_is_refused_too():
    row = approach("vcmdq-emulated-vmm").but(fallback="short-path")
    assert not Scenario(topology="mixed").refuses(approach("vcmdq-emulated-vmm"))
    assert "vmm-reads-all" in Scenario(topology="mixed").refuses(row)[0]


def test_bare_metal_is_refused_only_where_a_vcpu_drives_an_emulated_device():
    assert not Scenario(topology="per-smmu").refuses(approach("bare-metal"))
    driven = Topology.preset("per-smmu", drives=["d0", "emulated"])
    assert not Scenario(topology=driven, vcpus=1).refuses(approach("bare-metal"))
    (said,) = Scenario(topology=driven, vcpus=2).refuses(approach("bare-metal"))
    assert "guest0.vcpu1 -> guest0.emulated breaks the rule 'no-guest'" in said


def test_toml_has_a_topology_alone_or_in_a_table(tmp_path):
    made = Topology.preset("per-smmu", ats=True)
    for text in (made.to_toml(), Scenario(topology=made).to_toml().partition("[topology]")[0] and made.to_toml()):
        file = tmp_path / "topology.toml"
        file.write_text(text)
        assert Topology.from_toml(file) == made
    file.write_text('[topology]\npreset = "per-smmu"\nats = true\n')
    assert Topology.from_toml(file) == made


def test_neighbours_of_a_lazy_guest_stay_to_its_last_flush():
    made = Scenario(guests=2, workload={"lazy": True, "ops": 255}, neighbour={"guests": 1, "workload": {"think": 0}})
    run = lab.simulate(made, "qemu-today")
    last = max(start for start, guest in zip(run.ops["start"], run.ops["guest"], strict=True) if guest == 1)
    assert last > 0.9 * run.duration


def test_all_that_is_asked_for_is_counted_for_the_measured_guest():
    made = Scenario(guests=2, workload={"ops": 50}, neighbour={"guests": 1, "workload": {"think": 0}})
    for row in approaches():
        if row.front == "smmu-commands" and not row.on_metal:
            assert lab.simulate(made, row).counts.commands == 100, row.name
