"""A wired graph as a file that other programs read: GraphML and DOT."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smmu_lab.scenario.fields import InvalidInput

if TYPE_CHECKING:
    from networkx import DiGraph

_RANKS = (
    ("guest",),
    ("vcpu",),
    ("domain",),
    ("vsmmu",),
    ("root-complex", "queue"),
    ("vmm", "kernel", "worker"),
    ("host-cpu", "cmdq", "vintf"),
    ("smmu",),
    ("device",),
)
"""Kinds of nodes that stand side by side."""


def graphml(graph: DiGraph[str], path: str | os.PathLike[str]) -> None:
    """Write a wired graph as GraphML, whole or not at all.

    Attributes are texts, integers and truth values: an approach is its key, and numbers of SMMUs stand in one text.

    Args:
        graph: as `smmu_lab.scenario.wiring.wire` makes it.
        path: of the file; one that is there is replaced.

    Raises:
        InvalidInput: the file cannot be written.
    """
    import networkx

    plain: DiGraph[str] = networkx.DiGraph()
    for name, about in graph.nodes.items():
        plain.add_node(name, **scalars(about))
    for one, other, about in graph.edges(data=True):
        plain.add_edge(one, other, **about)
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            with beside.open("xb") as file:
                networkx.write_graphml(plain, file)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput([f"{target}: cannot be written: {error.strerror or error}"]) from None


def dot(graph: DiGraph[str]) -> str:
    r"""A wired graph in the language of Graphviz, from left to right, a rank for each layer.

    >>> from networkx import DiGraph
    >>> small = DiGraph()
    >>> small.add_node('say "queue"', kind="queue"); small.add_node("vmm", kind="vmm")
    >>> small.add_edge('say "queue"', "vmm", kind="consumes")
    >>> print(dot(small))
    digraph smmu_lab {
      rankdir=LR;
      node [shape=box];
      "say \"queue\"" [kind="queue"];
      "vmm" [kind="vmm"];
      "say \"queue\"" -> "vmm" [kind="consumes"];
      { rank=same; "say \"queue\""; }
      { rank=same; "vmm"; }
    }
    """
    lines = ["digraph smmu_lab {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_quoted(name)} [{_attributes(about)}];" for name, about in graph.nodes.items()]
    lines += [
        f"  {_quoted(one)} -> {_quoted(other)} [{_attributes(about)}];" for one, other, about in graph.edges(data=True)
    ]
    for kinds in _RANKS:
        if names := [_quoted(name) for name, kind in graph.nodes(data="kind") if kind in kinds]:
            lines.append(f"  {{ rank=same; {'; '.join(names)}; }}")
    return "\n".join([*lines, "}"])


def scalars(about: Mapping[str, Any]) -> dict[str, str | int]:
    """Attributes of a node as texts, integers and truth values; what cannot stand in XML is left out of a text."""
    return {key: value if isinstance(value, int) else _text(value) for key, value in about.items()}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else " ".join(map(str, value)) if isinstance(value, tuple) else value.name
    return "".join(letter for letter in text if letter.isprintable())


def _attributes(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_quoted(str(value))}" for key, value in scalars(about).items())


def _quoted(words: str) -> str:
    """A text of DOT; a line break or a backslash would begin an escape of its own."""
    escaped = re.sub(r'(["\\])', r"\\\1", words)
    return f'"{escaped}"'
