"""A graph that was written is read back the same, by programs that are not ours."""

import networkx
import pydot
import pytest

from smmu_lab.scenario import InvalidInput, Scenario, Topology, approach, approaches, wire
from smmu_lab.scenario.interchange import dot, graphml
from smmu_lab.scenario.topology import PRESETS

EVIL = "say \"hi\" \\ to <b> & 'all'\\"
WIRED = [
    pytest.param(preset, row, id=f"{preset} {row.name}")
    for preset in PRESETS
    for row in approaches()
    if not Scenario(topology=preset, guests=2, vcpus=2).refuses(row)
]


def graph_of(preset, row):
    return wire(Scenario(topology=preset, guests=2, vcpus=2), row)


def hostile():
    device = {"vsid": 8, "name": EVIL, "domain": EVIL[::-1].strip()}
    topology = Topology(layouts=[{"vsmmus": [{"name": EVIL, "devices": [device]}]}])
    return wire(Scenario(topology=topology), approach("batched").but(name=f"{EVIL}\n\x00\x1b"))


def expected(about):
    """What attributes a file can hold: a row is its key, numbers of SMMUs are a text."""
    made = {key: value for key, value in about.items() if key not in ("row", "smmus")}
    if "row" in about:
        made |= {"row": about["row"].name, "smmus": " ".join(map(str, about["smmus"]))}
    return made


def check_graphml(graph, path):
    graphml(graph, path)
    read = networkx.read_graphml(path)
    assert list(read) == list(graph)
    assert set(read.edges) == set(graph.edges)
    assert [path] == list(path.parent.iterdir())
    return read


@pytest.mark.parametrize(("preset", "row"), WIRED)
def test_graphml_is_read_back_by_networkx(preset, row, tmp_path):
    graph = graph_of(preset, row)
    read = check_graphml(graph, tmp_path / "machine.graphml")
    assert {name: dict(about) for name, about in read.nodes.items()} == {
        name: expected(about) for name, about in graph.nodes.items()
    }
    assert all(read.edges[edge]["kind"] == graph.edges[edge]["kind"] for edge in graph.edges)


def test_graphml_takes_any_name(tmp_path):
    read = check_graphml(hostile(), tmp_path / "machine.graphml")
    assert read.nodes[f"guest0.{EVIL}.cmdq"]["row"] == EVIL  # what no XML can hold is left out


def test_graphml_is_written_whole_or_not_at_all(tmp_path):
    there = tmp_path / "there.graphml"
    there.write_text("before")
    graph = graph_of("one-smmu", approach("batched"))
    broken = graph.copy()
    broken.add_node("strange", what={"no": "scalar"})
    with pytest.raises(AttributeError):
        graphml(broken, there)
    assert there.read_text() == "before"
    graphml(graph, there)
    assert networkx.read_graphml(there).number_of_nodes() == graph.number_of_nodes()
    for path, reason in ((tmp_path / "no" / "such.graphml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(InvalidInput, match=reason) as error:
            graphml(graph, path)
        assert str(path) in str(error.value)
    assert [there] == list(tmp_path.iterdir())


def plain(quoted):
    """What Graphviz makes of a quoted text: \\" is a quote; it shows \\\\ as one backslash."""
    assert quoted[0] == quoted[-1] == '"'
    return quoted[1:-1].replace('\\"', '"').replace("\\\\", "\\")


def read_dot(text):
    (read,) = pydot.graph_from_dot_data(text)
    nodes = {plain(node.get_name()): node for node in read.get_nodes() if node.get_name() not in ("node", "edge")}
    edges = {(plain(edge.get_source()), plain(edge.get_destination())): edge for edge in read.get_edges()}
    return read, nodes, edges


@pytest.mark.parametrize("name", ["batched", "short-path", "vcmdq", "vcmdq-overlay", "ecmdq"])
def test_dot_is_read_back_by_pydot(name):
    graph = graph_of("broadcast" if name == "ecmdq" else "per-smmu", approach(name))
    _, nodes, edges = read_dot(dot(graph))
    for name, about in graph.nodes.items():
        attributes = {key: plain(value) for key, value in nodes[name].get_attributes().items()}
        assert attributes == {key: str(value) for key, value in expected(about).items()}
    assert nodes.keys() == set(graph)
    kinds = {edge: plain(read.get_attributes()["kind"]) for edge, read in edges.items()}
    assert kinds == {(one, other): kind for one, other, kind in graph.edges(data="kind")}


def test_dot_takes_any_name():
    graph = hostile()
    _, nodes, edges = read_dot(dot(graph))
    assert nodes.keys() == set(graph)
    assert edges.keys() == set(graph.edges)


def test_dot_ranks_the_layers():
    graph = graph_of("per-smmu", approach("vcmdq"))
    read, _, _ = read_dot(dot(graph))
    kind = dict(graph.nodes(data="kind"))
    ranks = [[plain(node.get_name()) for node in each.get_nodes()] for each in read.get_subgraphs()]
    assert sorted(name for rank in ranks for name in rank) == sorted(n for n in graph if n != "host")
    layer = {name: number for number, rank in enumerate(ranks) for name in rank}
    for one, other, by in graph.edges(data="kind"):
        if by in ("drives", "invalidates", "consumes", "issues", "translates"):
            assert layer[one] < layer[other]
    assert {kind[name] for name in ranks[0]} == {"guest"}
    assert {kind[name] for name in ranks[-1]} == {"device"}
