"""Where devices may be: every rule, in the smallest layout that breaks it; and what comes in from outside."""

import tomllib

import pytest
import tomli_w
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from smmu_lab.scenario import InvalidInput, Scenario, Smmu, Unmaps, approach, approaches
from smmu_lab.scenario.layout import MOST_SMMUS, RULES, Layout
from smmu_lab.scenario.topology import PRESETS, Topology, read_topology

VF = {"name": "vf", "vsid": 8}
NIC = {"name": "nic", "vsid": 8, "kind": "emulated"}


def one(*devices, **vsmmu):
    """One guest with one vSMMU."""
    return {"layouts": [{"vsmmus": [{"devices": devices, **vsmmu}]}]}


def problems(make, *args, **kwargs):
    with pytest.raises(InvalidInput) as raised:
        make(*args, **kwargs)
    return list(raised.value.problems)


# -- every rule ------------------------------------------------------------------------------------------------------

NEVER = {
    "emulated-behind-accel": (one(NIC), "vsmmu0 -> nic"),
    "stream-id": (one({"name": "vf"}), "vsmmu0 -> vf"),
    "duplicate-stream-id": (one(VF, VF | {"name": "other"}), "vsmmu0 vsid 0x8 -> vf, other"),
    "duplicate-name": (one(VF, VF | {"vsid": 9}), "vsmmu0 -> vf"),
    "no-such-smmu": (one(VF | {"smmu": 1}), "smmu1 -> vf"),
    "ats": (one(NIC | {"ats": True}, accel=False), "vsmmu0 -> nic"),
}
"""The smallest layout that breaks each rule that holds under every approach, and the edge that is to be named."""

TWO = {"smmus": 2}
APART = {"layouts": [{"vsmmus": [{"devices": [VF]}, {"devices": [VF | {"smmu": 1}]}]}]}
UNDER = {
    "one-smmu-per-vcmdq": (
        {"topology": TWO | one(VF, VF | {"name": "other", "vsid": 9, "smmu": 1})},
        ["vcmdq", "vcmdq-overlay"],
        "guest0.vsmmu0 -> smmu0, smmu1",
    ),
    "vmm-reads-all": (
        {"topology": one(VF, accel=False)},
        [row.name for row in approaches() if not (row.decodes_all or row.on_metal)],
        "guest0.vsmmu0 -> vf",
    ),
    "no-guest": ({"topology": one(NIC, accel=False)}, ["ecmdq", "bare-metal"], "guest0.vcpu0 -> guest0.d0"),
    "one-viommu-per-domain": (
        {"topology": TWO | APART},
        ["vhost-iommu", "virtio-iommu"],
        "guest0.d0 -> vsmmu0, vsmmu1",
    ),
    "one-smmu-per-error": (
        {"topology": TWO | one(VF, VF | {"name": "other", "vsid": 9, "smmu": 1})},
        [approach("short-path").but(unsupported="error", name="error")],
        "guest0.vsmmu0 -> smmu0, smmu1",
    ),
    "vintfs": ({"guests": 2, "smmu.vintfs": 2}, ["vcmdq", "vcmdq-overlay"], "guest1.vsmmu0 -> smmu0"),
    "vcmdqs": ({"guests": 2, "smmu.vcmdqs": 4}, ["vcmdq"], "guest1.vsmmu0 -> smmu0"),
    "sids": (
        {"topology": one(VF, VF | {"name": "other", "vsid": 9}), "smmu.sids": 1},
        ["vcmdq", "vcmdq-overlay"],
        "guest0.vsmmu0 -> smmu0",
    ),
}
"""The smallest scenario that breaks each of the other rules, the approaches that it holds for, and the edge."""


def test_no_rule_is_without_an_example():
    assert sorted([*NEVER, *UNDER]) == sorted(RULES)


@pytest.mark.parametrize("rule", NEVER)
def test_a_layout_that_breaks_a_rule_is_refused_by_its_name_and_edge(rule):
    given, edge = NEVER[rule]
    (line,) = problems(Topology, **given)
    assert line.endswith(f": {edge} breaks the rule {rule!r}: {RULES[rule]}")
    assert line.startswith("topology.layouts[0].vsmmus[0].devices[")
    assert problems(Scenario, topology=given) == [line]


@pytest.mark.parametrize("rule", UNDER)
def test_an_approach_that_breaks_a_rule_is_refused_by_its_name_and_edge(rule):
    """And only the approaches that the rule is about are."""
    changes, rows, edge = UNDER[rule]
    scenario = Scenario().but(changes)
    for row in [*approaches(), *(each for each in rows if not isinstance(each, str))]:
        lines = [line for line in scenario.refuses(row) if f"breaks the rule {rule!r}" in line]
        if row.name in rows or row in rows:
            (line,) = lines
            assert line.startswith(f"topology under {row.name}: {edge} breaks the rule {rule!r}: {RULES[rule]}")
        else:
            assert lines == []


@pytest.mark.parametrize(("setting", "enough"), [("vintfs", 3), ("vcmdqs", 6), ("sids", 2)])
def test_what_an_smmu_has_just_enough_of_is_enough(setting, enough):
    """Two guests and the host: three VINTFs with two VCMDQs each; two devices behind each vSMMU."""
    two = one(VF, VF | {"name": "other", "vsid": 9})
    scenario = Scenario(topology=two, guests=2).but({f"smmu.{setting}": enough})
    row = approach("vcmdq")
    assert scenario.refuses(row) == ()
    (line,) = scenario.but({f"smmu.{setting}": enough - 1}).refuses(row)
    assert f"({enough} needed, {enough - 1} there)" in line


def test_vintfs_are_counted_on_each_smmu():
    """Two guests behind different SMMUs do not share them."""
    own = [{"vsmmus": [{"devices": [VF | {"smmu": k}]}]} for k in range(2)]
    apart = Scenario(topology={"smmus": 2, "layouts": own}, guests=2).but({"smmu.vintfs": 2})
    assert apart.refuses(approach("vcmdq")) == ()
    assert apart.but(guests=3).refuses(approach("vcmdq")) != ()


def test_a_domain_may_span_vsmmus():
    """Linux invalidates one SMMU after the other; only virtio-iommu attaches a domain to one device."""
    spanning = Scenario(topology=TWO | APART)
    assert spanning.layout(0).spans() == ("d0",)
    assert {row.name for row in approaches() if spanning.refuses(row)} == {"vhost-iommu", "virtio-iommu"}


def test_bare_metal_minds_an_emulated_device_only_if_somebody_works_on_its_domain():
    both = [VF, NIC | {"vsid": 9, "domain": "nic"}]
    for drives, refused in ((["d0"], False), (["nic"], True), ([], False)):
        layout = {"vsmmus": [{"accel": False, "devices": both}], "drives": drives}
        assert bool(Scenario(topology={"layouts": [layout]}).refuses(approach("bare-metal"))) == refused
    assert Scenario(topology={"layouts": [layout]}, vcpus=2).refuses(approach("bare-metal"))


def test_a_bridge_needs_nothing():
    Topology(**one(VF, {"kind": "bridge", "name": "port"}))


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("workload.ats_devices", {"topology": "broadcast", "workload.ats_devices": 1}),
        ("workload.cd_every", {"topology": "broadcast", "workload.cd_every": 2}),
        ("workload.stall", {"topology": "broadcast", "workload.stall": "1us"}),
        ("fault.kind", {"topology": "one-smmu", "fault.kind": "illegal-command"}),
        ("neighbour.guests", {"neighbour.guests": 1}),
        ("neighbour.workload.cd_every", {"topology": "broadcast", "guests": 2, "neighbour.guests": 1,
                                         "neighbour.workload.cd_every": 1}),
        ("topology.smmus", {"topology.smmus": 2}),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_in_a_topology_is_named(setting, changes):
    (line,) = problems(Scenario().but, changes)
    assert line.startswith(f"{setting}: ")


def test_a_recorded_guest_has_one_vsmmu():
    recorded = {"kind": "recorded", "trace": "nvme_dd_r1m_j1_strict_61"}
    (line,) = problems(Scenario, workload=recorded, topology="per-smmu")
    assert line.startswith("workload.kind: 'recorded' cannot be in topology 'per-smmu'")
    Scenario(workload=recorded, topology="one-smmu")


def test_a_stall_needs_one_to_63_devices_with_ats():
    for devices, valid in ((1, True), (63, True), (64, False)):
        topology = Topology.preset("one-smmu", devices=devices, ats=True)
        build = {"topology": topology, "workload": Unmaps(stall="1us")}
        assert valid or problems(Scenario, **build)[0].startswith("workload.stall: ")
        if valid:
            Scenario(**build)


# -- all problems at once --------------------------------------------------------------------------------------------


def test_all_broken_rules_are_told_at_once():
    """Five devices, each wrong in its way, and a domain that nobody has."""
    wrong = [VF, VF, {"name": "mute"}, NIC | {"vsid": 7, "ats": True}, {"name": "far", "vsid": 6, "smmu": 9}]
    lines = problems(Topology, layouts=[{"vsmmus": [{"devices": wrong}], "drives": ["d1"]}])
    told = [line.partition(" breaks the rule ")[2].partition(":")[0].strip("'") for line in lines]
    assert sorted(told) == sorted(
        ["duplicate-name", "duplicate-stream-id", "stream-id", "emulated-behind-accel", "ats", "no-such-smmu", ""]
    )
    assert "topology.layouts[0].drives: unknown; one of d0" in lines


def test_all_values_that_are_not_valid_are_told_at_once_each_at_its_place():
    bad = {
        "name": "a.b",
        "smmus": 65,
        "layouts": [
            {"vsmmus": [{"devices": [{"vsid": 65536, "smmu": -1}], "accel": 1, "nmae": "x"}]},
            {"drives": "d0"},
        ],
    }
    places = [line.split(":")[0] for line in problems(Topology, **bad)]
    assert sorted(places) == [
        "topology.layouts[0].vsmmus[0].accel",
        "topology.layouts[0].vsmmus[0].devices[0].smmu",
        "topology.layouts[0].vsmmus[0].devices[0].vsid",
        "topology.layouts[0].vsmmus[0].nmae",
        "topology.layouts[1].drives",
        "topology.name",
        "topology.smmus",
    ]


def test_every_guest_that_an_approach_cannot_serve_is_told_of():
    """Layouts that guests share are told of once."""
    layouts = [one(VF, accel=False)["layouts"][0], one(NIC, accel=False)["layouts"][0]]
    lines = Scenario(topology={"layouts": layouts}, guests=4).refuses(approach("vcmdq"))
    assert [line.partition(" -> ")[0] for line in lines] == ["topology under vcmdq: guest0.vsmmu0"]


# -- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ats", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("smmus", [1, 2, 8, MOST_SMMUS])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_it_says(name, smmus, devices, shared, ats):
    fixed = {"one-smmu": 1, "grace-8-smmu": 8}.get(name, smmus)
    if fixed != smmus:
        (line,) = problems(Topology.preset, name, smmus=smmus)
        assert line == f"topology.smmus: {smmus} is not valid: {fixed}, as the preset {name!r} has"
        return
    made = Topology.preset(name, smmus=smmus, devices=devices, shared=shared, ats=ats)
    (layout,) = made.layouts
    spans = [vsmmu.smmus for vsmmu in layout.vsmmus]
    everywhere = tuple(range(smmus))
    one_each = [*((k,) for k in everywhere), ()]
    assert (made.name, made.smmus) == (name, smmus)
    assert spans == (one_each if name in ("per-smmu", "grace-8-smmu") else [everywhere])
    real = [each for vsmmu in layout.vsmmus for each in vsmmu.devices if each.kind == "passthrough"]
    assert [each.smmu for each in real] == [k for k in everywhere for _ in range(devices)]
    assert {each.ats for each in real} == {ats}
    assert {each.domain for each in real} == ({"d0"} if shared else {f"d{k}" for k in everywhere})
    emulated = [each for vsmmu in layout.vsmmus for each in vsmmu.devices if each.kind == "emulated"]
    assert len(emulated) == (name in ("per-smmu", "grace-8-smmu", "mixed"))
    assert all(not vsmmu.accel for vsmmu in layout.vsmmus if vsmmu.emulates)


@pytest.mark.parametrize("given", [{"smmus": 0}, {"smmus": 65}, {"smmus": True}, {"devices": 0}, {"devices": "1"}])
def test_a_preset_takes_no_strange_number(given):
    (name,) = given
    assert problems(Topology.preset, "broadcast", **given)[0].startswith(f"topology.{name}: ")


def test_an_unknown_preset_has_a_neighbour():
    assert problems(Scenario, topology="brodcast") == ["topology.preset 'brodcast': unknown; did you mean 'broadcast'?"]


# -- round trips -----------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_characters=".", exclude_categories=("C", "Z")), min_size=1,
                max_size=12)  # fmt: skip
MINE = NAMES.map(lambda name: f"my {name}")
"""Names that are none of the lab's."""


ROWS = [
    *approaches(),
    *(
        approach(name).but(worker=scope, name=f"{name}, a worker per {scope}")
        for name in ("short-path", "vcmdq-emulated")
        for scope in ("vm", "host")
    ),
    approach("vcmdq").but(fallback="short-path", name="vcmdq, short-path behind it"),
    approach("vcmdq").but(execution="parallel", name="vcmdq, parallel"),
    approach("vcmdq").but(arbitration="round-robin", name="vcmdq, round-robin"),
]
"""The catalogue, and what topologies add to choose: who works for several vSMMUs, and what an SMMU has several of."""


@st.composite
def vsmmus(draw, smmus, row, own):
    """A vSMMU over up to so many SMMUs, or for emulated devices, or for both: as the approach can take it."""
    domains = st.sampled_from("abc").map(lambda name: name + own)
    accel = draw(st.booleans())
    reads_all = row.decodes_all or row.on_metal
    over = st.sampled_from(draw(st.lists(st.integers(0, smmus - 1), min_size=1, max_size=1 if row.has_vcmdqs else 3)))
    devices = []
    if accel or (reads_all and draw(st.booleans())):
        real = st.fixed_dictionaries({"smmu": over, "ats": st.booleans(), "domain": domains})
        devices += draw(st.lists(real, max_size=4))
    if not accel:
        emulated = st.fixed_dictionaries({"kind": st.just("emulated"), "domain": domains})
        devices += draw(st.lists(emulated, max_size=2))
    streams = draw(st.lists(st.integers(0, 0xFFFF), min_size=len(devices), max_size=len(devices), unique=True))
    devices = [device | {"vsid": vsid} for device, vsid in zip(devices, streams, strict=True)]
    bridge = [{"kind": "bridge"}] if draw(st.booleans()) else []
    return {"accel": accel, "devices": bridge + devices}


@st.composite
def layouts(draw, smmus, row):
    """One to three vSMMUs; domains span them or do not, and not all of them are worked on."""
    apart = row.front == "virtio-iommu" or draw(st.booleans())
    made = [draw(vsmmus(smmus, row, str(k) if apart else "")) for k in range(draw(st.integers(1, 3)))]
    devices = [each for vsmmu in made for each in vsmmu["devices"] if "domain" in each]
    there = {each["domain"] for each in devices}
    if row.on_metal:
        there -= {each["domain"] for each in devices if "kind" in each}
    assume(there)
    if draw(st.booleans()):
        names = draw(st.lists(MINE, min_size=len(made), max_size=len(made), unique=True))
        made = [vsmmu | {"name": name} for vsmmu, name in zip(made, names, strict=True)]
    driven = st.lists(st.sampled_from(sorted(there)), min_size=int(row.on_metal), max_size=3)
    return Layout(vsmmus=made, drives=draw(driven))


@st.composite
def topologies(draw, row=None):
    """Any topology that an approach can run on; by default one whose VMM decodes everything, which runs on all."""
    row = row or approach("qemu-today")
    smmus = draw(st.integers(1, 4))
    return Topology(name="random", smmus=smmus, layouts=draw(st.lists(layouts(smmus, row), min_size=1, max_size=2)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@settings(max_examples=20)
@given(draw=st.data())
def test_what_is_drawn_for_an_approach_it_can_run_on(row, draw):
    """Of the strategy itself: the tests that use it leave out no approach."""
    assert Scenario(topology=draw.draw(topologies(row)), smmu=Smmu(sids=64)).refuses(row) == ()


@given(topology=topologies())
def test_a_topology_is_what_its_dict_and_its_toml_say(topology):
    data = topology.to_dict()
    assert read_topology(data) == topology
    assert read_topology(tomllib.loads(tomli_w.dumps(data))) == topology
    scenario = Scenario(topology=topology)
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    assert Scenario.from_dict(tomllib.loads(scenario.to_toml())) == scenario


def test_a_topology_comes_from_a_file(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text('preset = "per-smmu"\nsmmus = 3\nats = true\n')
    assert Topology.from_toml(file) == Topology.preset("per-smmu", smmus=3, ats=True)
    made = Topology.preset("mixed", devices=2, shared=True, drives=["d0"])
    file.write_text(tomli_w.dumps(made.to_dict()))
    assert Topology.from_toml(file) == made
    file.write_text("smmus = ")
    assert "is no TOML" in problems(Topology.from_toml, file)[0]
    assert "cannot be read" in problems(Topology.from_toml, tmp_path / "none.toml")[0]


# -- from outside ----------------------------------------------------------------------------------------------------

OWN = ["vmm", "vcpu0", "smmu0", "d0", "vsmmu0", "passthrough", "emulated"]
WORDS = st.sampled_from([*PRESETS, *OWN, "", "a.b", "\x00", "\x1b[31m", "é" * 41])
NUMBERS = st.one_of(st.integers(), st.integers(-2, 70), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.binary(max_size=4), WORDS)
FIELDS = st.sampled_from(
    ["name", "smmus", "layouts", "vsmmus", "drives", "devices", "accel", "kind", "smmu", "vsid", "ats", "domain",
     "preset", "shared", "self", "where"]
)  # fmt: skip
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(st.one_of(FIELDS, NUMBERS, NAMES), inner, max_size=5),
    ),
    max_leaves=12,
)


def damaged(draw, data):
    """Plain data with some of it replaced by something else."""
    if draw(st.integers(0, 5)) == 0:
        return draw(JUNK)
    if isinstance(data, dict):
        made = {name: damaged(draw, each) for name, each in data.items() if draw(st.integers(0, 9))}
        return made | ({draw(FIELDS): draw(JUNK)} if draw(st.integers(0, 5)) == 0 else {})
    return [damaged(draw, each) for each in data] if isinstance(data, list) else data


def refused_or_built(make, *args, **kwargs):
    """Every line is one line, and shows no control character of the input."""
    lines = ["it was built"]
    try:
        make(*args, **kwargs)
    except InvalidInput as error:
        lines = error.problems
    assert lines
    assert all(map(str.isprintable, lines)), lines


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=JUNK)
def test_whatever_comes_is_a_topology_or_invalid_input(data):
    refused_or_built(Scenario, topology=data)
    if isinstance(data, dict) and all(type(name) is str for name in data):
        refused_or_built(Topology, **data)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(topology=topologies(), draw=st.data())
def test_a_damaged_topology_is_a_topology_or_invalid_input(topology, draw):
    refused_or_built(Scenario, topology=damaged(lambda strategy: draw.draw(strategy), topology.to_dict()))


@given(name=JUNK, given=st.dictionaries(st.sampled_from(["smmus", "devices", "ats", "shared", "drives"]), JUNK))
def test_whatever_a_preset_is_given_it_is_a_topology_or_invalid_input(name, given):
    refused_or_built(Topology.preset, name, **given)
    refused_or_built(Topology.preset, "mixed", **given)
    refused_or_built(Scenario, topology={"preset": "mixed", **given})


def test_the_name_of_a_field_is_not_written_as_it_comes():
    """It comes from a file, and goes to a terminal."""
    refused_or_built(Scenario, topology={"\x1b[31m": 1})


@pytest.mark.parametrize("name", ["vmm", "vcpu0", "smmu17", "a.b", "", "a\nb", "\x1b[31m", "x" * 41, "\ud800"])
@pytest.mark.parametrize("what", ["domain", "vsmmu"])
def test_a_name_that_the_lab_has_itself_or_cannot_write_is_refused(what, name):
    device = VF | ({"domain": name} if what == "domain" else {})
    (line,) = problems(Topology, **one(device, **({"name": name} if what == "vsmmu" else {})))
    assert line.isprintable()


@pytest.mark.parametrize(
    ("what", "most"), [("layouts", 1024), ("layouts[0].vsmmus", 256), ("layouts[0].vsmmus[0].devices", 4096)]
)
def test_a_list_without_end_is_refused_before_it_is_read(what, most):
    def endless():
        for number in range(most + 10):
            assert number <= most, "one too many tells"
            yield {}

    inner = {"layouts": endless, "layouts[0].vsmmus": endless, "layouts[0].vsmmus[0].devices": endless}[what]()
    vsmmus = [{"devices": inner}] if what.endswith("devices") else inner
    given = inner if what == "layouts" else [{"vsmmus": vsmmus}]
    assert problems(Topology, layouts=given) == [f"topology.{what}: too many: at most {most:,}"]


def test_nor_is_a_list_of_domains_without_end_taken():
    """Each of them is looked up in all devices."""
    for number in (1025, 100_000):
        (line,) = problems(Topology, layouts=[{"vsmmus": [{"devices": [VF]}], "drives": ["d0"] * number}])
        assert line.startswith("topology.layouts[0].drives: ")
        assert len(line) < 200
