"""The layered picture: read back what was drawn, and hold it to the graph and the loads."""

import itertools
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from smmu_lab.charts import Load, layers, layers_sheet
from smmu_lab.charts.gather import gather, users
from smmu_lab.charts.layers import HUES, WIDEST
from smmu_lab.charts.palette import contrast
from smmu_lab.charts.places import COLUMN, spread
from smmu_lab.scenario import Host, Scenario, Topology, approach, approaches, wire
from smmu_lab.scenario.topology import PRESETS

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "\"><script>alert(1)</script>&<b a='"
PAPERS = {"light": "#ffffff", "dark output": "#111111", "dark cell": "#212121"}
SIZES = {"1 x 1": (1, 1), "2 x 4": (2, 4), "64 x 8": (64, 8)}
FEW = ("batched", "short-path", "vcmdq", "ecmdq")

MACHINES = [
    pytest.param(preset, row, size, id=f"{preset} {row.name} {size}")
    for preset, row, size in itertools.product(PRESETS, approaches(), SIZES)
    if (size == "2 x 4" or row.name in FEW)
    and not Scenario(topology=preset, guests=SIZES[size][0], vcpus=SIZES[size][1]).refuses(row)
]


def graph_of(preset="per-smmu", name="short-path", guests=1, vcpus=2, **more):
    row = approach(name) if isinstance(name, str) else name
    return wire(Scenario(topology=preset, guests=guests, vcpus=vcpus, **more), row)


def made_up(graph):
    """Loads for everything, all different."""
    servers = ("vcpu", "vmm", "kernel", "worker", "host-cpu", "smmu")
    made = {}
    for number, (name, kind) in enumerate(graph.nodes(data="kind"), 1):
        busy = number % 97 / 97 if kind in servers else None
        made[name] = Load(1000 * number, busy, number / 7 if kind == "queue" else None)
    return made | {edge: Load(1000 * number) for number, edge in enumerate(graph.edges, 1)}


def boxes(svg):
    """(x, y, right, bottom) of each box by the name it shows."""
    found = {}
    for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        if name := rect.get("data-name"):
            x, y, width, height = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
            found.setdefault(name, []).append((x, y, x + width, y + height))
    return [each for several in found.values() for each in several]


def edges(svg):
    return [path for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("data-from")]


def words(svg):
    texts = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return [(text.text or "") + "".join(tip.tail or "" for tip in text) for text in texts]


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def within(one, other):
    return other[0] <= one[0] and other[1] <= one[1] and one[2] <= other[2] and one[3] <= other[3]


@pytest.mark.parametrize(("preset", "row", "size"), MACHINES)
def test_boxes_stand_apart_or_within_one_another_and_inside_the_picture(preset, row, size):
    guests, vcpus = SIZES[size]
    graph = graph_of(preset, row, guests, vcpus)
    svg = layers(graph, made_up(graph), ["smmu0"])
    drawn = boxes(svg)
    assert all(apart(a, b) or within(a, b) or within(b, a) for a, b in itertools.combinations(drawn, 2))
    tree = ElementTree.fromstring(svg)
    picture = (0, 0, float(tree.get("width")), float(tree.get("height")))
    assert all(within(box, picture) for box in drawn)
    assert picture[2] < 1200
    assert picture[3] < 3000


@pytest.mark.parametrize(("preset", "row", "size"), MACHINES)
def test_everything_is_shown_once(preset, row, size):
    guests, vcpus = SIZES[size]
    graph = graph_of(preset, row, guests, vcpus)
    small = gather(graph)
    shown = [name for cell in small.cells for name in cell.names]
    assert sorted(shown) == sorted(n for n, kind in graph.nodes(data="kind") if kind not in ("host", "root-complex"))
    assert len(boxes(layers(graph))) == sum(cell.kind in COLUMN for cell in small.cells)
    assert len(layers_sheet(graph).rows) == sum(cell.kind in COLUMN for cell in small.cells)


@pytest.mark.parametrize(("preset", "row", "size"), MACHINES)
def test_no_command_is_lost_by_gathering(preset, row, size):
    """Sums over what is drawn are the sums over all that there is."""
    guests, vcpus = SIZES[size]
    graph = graph_of(preset, row, guests, vcpus)
    loads = made_up(graph)
    small = gather(graph)
    for kind in ("vcpu", "queue", "vmm", "worker", "smmu", "device"):
        drawn = sum(small.load(cell, loads).commands for cell in small.cells if cell.kind == kind)
        assert drawn == sum(loads[name].commands for name, each in graph.nodes(data="kind") if each == kind)
    for kind in ("drives", "consumes", "issues", "translates"):
        drawn = sum(small.load(edge, loads).commands for edge in small.edges if small.kind(edge) == kind)
        assert drawn == sum(loads[a, b].commands for a, b, each in graph.edges(data="kind") if each == kind)


def test_programs_find_cells_and_their_edges():
    """By their place among what `gather` finds."""
    graph, limits = graph_of("per-smmu", "vcmdq", 12, 4), ["guest7.vmm"]
    small = gather(graph, limits)
    tree = ElementTree.fromstring(layers(graph, made_up(graph), limits))
    found = {int(each.get("data-cell")): each for each in tree.iter(f"{SVG}g") if each.get("data-cell")}
    for place, cell in enumerate(small.cells):
        if cell.kind in COLUMN:
            assert found.pop(place).find(f"{SVG}rect[@data-name]").get("data-name") == cell.full
        elif cell.kind == "guest":
            assert found.pop(place).find(f"{SVG}text/{SVG}title").text == cell.full
    assert not found
    for each in tree.iter(f"{SVG}g"):
        path = each.find(f"{SVG}path[@data-from]")
        if each.get("data-way") and path is not None:
            one, other = (small.cells[int(end)] for end in each.get("data-way").split())
            assert (path.get("data-from"), path.get("data-to")) == (one.full, other.full)
            assert (one, other) in small.edges


def test_widths_are_in_proportion_to_the_commands():
    graph = graph_of("broadcast", "batched", 2, 3)
    loads = {edge: Load(1000 * number) for number, edge in enumerate(graph.edges, 30)}
    drawn = {int(path.get("data-commands")): float(path.get("stroke-width")) for path in edges(layers(graph, loads))}
    most = max(drawn)
    assert len(drawn) > 10
    for commands, width in drawn.items():
        assert width == pytest.approx(max(1, WIDEST * commands / most), abs=0.01)


def test_an_edge_that_nothing_went_along_is_dotted():
    graph = graph_of()
    loads = dict.fromkeys(graph.edges, Load(5)) | {("guest0.vcpu1", "guest0.d1"): Load(0)}
    dotted = {(path.get("data-from"), path.get("data-to")) for path in edges(layers(graph, loads))
              if path.get("stroke-dasharray")}  # fmt: skip
    assert dotted == {("guest0.vcpu1", "guest0.d1")}
    assert not any(path.get("stroke-dasharray") for path in edges(layers(graph)))


def test_bars_are_shares_of_time_at_work():
    graph = graph_of("one-smmu", "batched")
    svg = layers(graph, {"guest0.vmm": Load(10, 0.25), "smmu0": Load(10, 1.0)})
    rects = list(ElementTree.fromstring(svg).iter(f"{SVG}rect"))
    bars = [float(rect.get("width")) / float(rects[k - 1].get("width")) for k, rect in enumerate(rects)
            if rect.get("data-busy")]  # fmt: skip
    assert sorted(bars) == pytest.approx([0.25, 1.0])
    assert {"lock 25%", "engine 100%"} <= set(words(svg))


def test_a_queue_says_how_much_waits_in_it():
    svg = layers(graph_of("one-smmu"), {"guest0.vsmmu0.cmdq": Load(12_345, None, 2.5)})
    assert {"12.3k commands", "2.5 waiting"} <= set(words(svg))


def test_what_limits_is_marked_by_a_word_and_a_border_not_by_a_hue():
    graph = graph_of("per-smmu", "short-path")
    plain, marked = (
        {rect.get("data-name"): rect for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect")}
        for svg in (layers(graph), layers(graph, bottleneck=["worker1"]))
    )
    assert marked["worker1"].get("stroke") == plain["worker1"].get("stroke")
    assert float(marked["worker1"].get("stroke-width")) == 2 * float(plain["worker1"].get("stroke-width"))
    assert {name for name, rect in marked.items() if rect.get("data-marked") == "1"} == {"worker1"}
    assert sum("limits" in line for line in words(layers(graph, bottleneck=["worker1"]))) == 2  # the box, the legend
    assert "limits" not in " ".join(words(layers(graph)))


@pytest.mark.parametrize("name", ["smmu5", "worker17", "guest40.vmm", "guest9.vsmmu3.cmdq", "guest33.vcpu6"])
def test_what_limits_stands_for_itself_among_many(name):
    graph = graph_of("grace-8-smmu", "short-path", 64, 8)
    (row,) = [row for row in layers_sheet(graph, bottleneck=[name]).rows if "limits" in row]
    assert row[0] == name
    assert gather(graph, [name]).of[name].names == (name,)


def test_of_many_it_is_said_how_many_limit():
    graph = graph_of("one-smmu", "batched", 64)
    some, every = ([f"guest{k}.vmm" for k in range(number)] for number in (10, 64))
    assert "\N{BLACK RIGHT-POINTING TRIANGLE} 7 limit" in words(layers(graph, bottleneck=some))
    assert [row[-1] for row in layers_sheet(graph, bottleneck=every).rows if row[1] == "vmm"] == ["limits"] * 4


def test_many_guests_are_gathered_and_said_to_be():
    said = words(layers(graph_of("one-smmu", "batched", 64, 2)))
    assert [line for line in said if line.startswith("guest")][:3] == ["guest0", "guest1", "guest2"]
    assert "and 61 guests more, alike" in said
    assert {"122 vCPUs", "61 vSMMUs", "61 CMDQs", "61 VMMs"} <= set(said)


def test_many_parts_of_one_guest_are_gathered():
    said = words(layers(graph_of({"preset": "per-smmu", "smmus": 20}, "batched", 1, 12)))
    assert {"5 more", "vcpu7 … vcpu11", "13 more", "13 SMMUs"} <= set(said)


def test_guests_of_another_layout_are_not_alike():
    one, two = Topology.preset("one-smmu"), Topology.preset("broadcast")
    mixed = Topology(smmus=2, layouts=[one.layouts[0], two.layouts[0]])
    small = gather(graph_of(mixed, "batched", 20, 1))
    for cell in small.cells:
        assert cell.kind != "guest" or len({int(name[5:]) % 2 for name in cell.names}) == 1
    assert sum(cell.kind == "guest" for cell in small.cells) == 4


def test_who_shares_what():
    graph = graph_of("per-smmu", approach("short-path").but(worker="vm"), 3, 4)
    assert users(graph, "guest0.vsmmu0.cmdq") == {"guest0.vcpu0", "guest0.vcpu2"}
    assert users(graph, "worker1") == {"guest1.vsmmu0.cmdq", "guest1.vsmmu1.cmdq"}
    assert users(graph, "smmu1.cmdq") == {"guest0", "guest1", "guest2"}
    assert users(graph, "guest2.vmm") == {"guest2.vsmmu2.cmdq"}
    hardware = graph_of("one-smmu", "vcmdq", 1, 3)
    assert users(hardware, "guest0.vsmmu0.vcmdq0") == {"guest0.vcpu0", "guest0.vcpu2"}
    assert users(hardware, "guest0.vsmmu0.vcmdq1") == {"guest0.vcpu1"}
    metal = graph_of("broadcast", "ecmdq", 1, 2)
    assert users(metal, "guest0.smmu0.ecmdq0") == {"guest0.vcpu0"}
    assert users(metal, "guest0.smmu0.ecmdq1") == set()  # its vCPU works on the other domain


def test_where_workers_run():
    pinned = graph_of("per-smmu", "short-path", host=Host(worker_cpus=3, placement="pinned"))
    assert {"on cpu0", "on cpu1"} <= set(words(layers(pinned)))
    assert "on any of 4 CPUs" in words(layers(graph_of("per-smmu", "short-path")))


def test_the_text_twin_says_the_same():
    graph = graph_of("per-smmu", "batched", 2, 3)
    loads = made_up(graph)
    sheet = layers_sheet(graph, loads, ["guest1.vmm"])
    rows = {row[0]: dict(zip(sheet.header, row, strict=True)) for row in sheet.rows}
    for path in edges(layers(graph, loads, ["guest1.vmm"])):
        below = rows[path.get("data-from")]["leads to"]
        assert path.get("data-to") in below or "more" in below
    for name, row in rows.items():
        load = loads[name]
        assert row["commands"] == f"{load.commands:,}"
        assert row["at work"] == ("" if load.busy is None else f"{load.busy:.0%}")
        assert bool(row["waiting"]) == (load.waiting is not None)
        assert row["throughput"] == ("limits" if name == "guest1.vmm" else "")
    assert layers_sheet(graph).header == ("what", "kind", "about", "leads to")


def test_names_are_never_markup():
    device = {"vsid": 8, "name": EVIL, "domain": EVIL[::-1], "ats": True}
    topology = Topology(layouts=[{"vsmmus": [{"name": EVIL + "!", "devices": [device]}]}])
    graph = graph_of(topology, approach("batched").but(name=EVIL, title=EVIL))
    svg = layers(graph, made_up(graph), [f"guest0.{EVIL}!.cmdq"], title=EVIL)
    tree = ElementTree.fromstring(svg)  # still well-formed
    assert {element.tag.removeprefix(SVG) for element in tree.iter()} <= {
        *("svg", "style", "title", "rect", "text", "path", "g")
    }
    assert f"guest0.{EVIL}!" in {rect.get("data-name") for rect in tree.iter(f"{SVG}rect")}
    assert tree.get("aria-label") == EVIL
    assert "<script" not in svg
    html = layers_sheet(graph)._repr_html_()
    assert "<script" not in html


def test_a_control_character_in_a_title_does_no_harm():
    assert ElementTree.fromstring(layers(graph_of(), title="a\x00b\x1b[31m\nc")) is not None


@pytest.mark.parametrize("kind", HUES)
def test_a_hue_stands_out_in_both_themes(kind):
    assert all(contrast(HUES[kind], paper) >= 3 for paper in PAPERS.values())


def test_pure():
    """Also from one interpreter to the next, whose sets come in another order."""
    program = """
from smmu_lab.charts import layers, layers_sheet
from smmu_lab.scenario import *
graph = wire(Scenario(topology="grace-8-smmu", guests=20, vcpus=8), approach("vcmdq"))
print(layers(graph, bottleneck=["smmu3"]), layers_sheet(graph))
"""
    made = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in "123"
    }
    assert len(made) == 1


@pytest.mark.parametrize("top", [0, 40])
def test_places_are_in_order_without_overlap_and_near_what_is_wished(top):
    wishes, heights = [50, 52, 54, 300, 10], [30, 10, 20, 40, 5]
    places = spread(wishes, heights, top)
    assert places[0] >= top
    assert all(a + h <= b + 1e-9 for a, h, b in zip(places, heights, places[1:], strict=False))
    nudged = [[p + d if j == k else p for j, p in enumerate(places)] for k in range(5) for d in (-0.5, 0.5)]
    legal = [
        each
        for each in nudged
        if each[0] >= top and all(a + h <= b for a, h, b in zip(each, heights, each[1:], strict=False))
    ]
    far = [sum((p - w) ** 2 for p, w in zip(each, wishes, strict=True)) for each in (places, *legal)]
    assert min(far) == far[0]


LABELS = """() => [...document.querySelectorAll("svg text")].map(text => {
    const box = text.getBBox();
    return [text.textContent, box.x, box.y, box.x + box.width, box.y + box.height];
})"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_words_are_cut_or_overlap(page, scheme):
    """As a real browser sets them, in its own fonts; by their heights less a little, for lines stand close."""
    page.emulate_media(color_scheme=scheme)
    long = {"vsid": 8, "name": "W" * 40, "domain": "the domain of everything in this house 4"}
    topologies = [*PRESETS, Topology(name="long", layouts=[{"vsmmus": [{"name": "M" * 40, "devices": [long]}]}])]
    for preset, name, (guests, vcpus) in itertools.product(topologies, ("batched", "vcmdq", "ecmdq"), SIZES.values()):
        if Scenario(topology=preset, guests=guests, vcpus=vcpus).refuses(approach(name)):
            continue
        graph = graph_of(preset, name, guests, vcpus)
        svg = layers(graph, made_up(graph), ["smmu0"], "One title\nand another")
        page.set_content(svg)
        width, height = (float(ElementTree.fromstring(svg).get(key)) for key in ("width", "height"))
        rooms = boxes(svg)
        texts = page.evaluate(LABELS)
        for said, *(left, top, right, bottom) in texts:
            assert left >= 0, said
            assert right <= width, said
            assert bottom <= height, said
            mine = [room for room in rooms if room[0] <= left <= room[2] and room[1] <= (top + bottom) / 2 <= room[3]]
            assert all(right <= room[2] for room in mine), said
        for (one, *a), (other, *b) in itertools.combinations(texts, 2):
            assert apart((a[0], a[1] + 2, a[2], a[3] - 2), (b[0], b[1] + 2, b[2], b[3] - 2)), (one, other)
