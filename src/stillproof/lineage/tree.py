"""Models and the edges between them: what is declared, what was tested, what the weights contradict.

`grow` starts at one folder and follows the parents that it claims, as far as folders of them are given; a parent that
is only a name ends its branch. Weight tests belong to others: they come in as a callable that returns a Finding.

An edge is 'declared' until a test speaks. A test that finds dependence makes it 'tested'; a test that could have found
it and did not makes it 'contradicted'; an inconclusive one changes nothing. `distilled_from` is never put to a weight
test: a student holds none of its teacher's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillproof.errors import InputError
from stillproof.lineage.declared import Claim, Said, Tie, claims_in, declared_in

if TYPE_CHECKING:
    from stillproof.finding import Finding

MAX_NODES = 100_000

State = Literal["declared", "tested", "contradicted"]
Tester = Callable[[Path, Path], "Finding | None"]
"""(child's folder, parent's folder) -> a Finding on the null that the weights are independent, or None: no test."""


@dataclass(frozen=True, slots=True)
class Node:
    """One model: its licence as declared, and by whom. `folder` is None where only its name is known."""

    name: str
    licence: str | None = None
    declared_by: str | None = None
    revision: str | None = None
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """child comes from parent, says `said_by`. `finding` is the weight test's, where one was made."""

    child: str
    parent: str
    tie: Tie
    said_by: tuple[str, ...]
    state: State = "declared"
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """A graph with a root. `cycles`: each a closed walk of names; a lineage with one is false somewhere."""

    root: str
    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    faults: tuple[str, ...] = ()
    cycles: tuple[tuple[str, ...], ...] = field(default=())

    def parents(self) -> dict[str, list[Edge]]:
        """The edges of each child, in the order in which they were declared."""
        by_child: dict[str, list[Edge]] = {name: [] for name in self.nodes}
        for edge in self.edges:
            by_child[edge.child].append(edge)
        return by_child

    def to_json(self) -> dict[str, Any]:
        return {
            "root": self.root,
            "nodes": [_node_json(node) for node in self.nodes.values()],
            "edges": [_edge_json(edge) for edge in self.edges],
            "cycles": [list(cycle) for cycle in self.cycles],
            "faults": list(self.faults),
        }


def grow(
    folder: Path,
    known: Mapping[str, Path] | None = None,
    test: Tester | None = None,
    name: str | None = None,
) -> Lineage:
    """The lineage of the model in a folder (or a GGUF file).

    known: folders of parents, by the name under which children claim them. No other place is looked at.
    test: weight test for edges whose two folders are at hand.
    name: what the root is called; without it the folder's own name.
    Raises InputError where the folder is none, or where the lineage has more than MAX_NODES models.
    """
    if not folder.exists():
        raise InputError("no such folder", str(folder), "give a model's folder, or a GGUF file")
    folders = {} if known is None else dict(known)
    root = name or folder.resolve().name
    faults: list[str] = []
    files = Said(folder)
    nodes = {root: _node(root, files, faults)}
    edges: list[Edge] = []
    waiting = [(root, files)]
    while waiting:
        child, files = waiting.pop()
        at = files.folder
        for edge, revision, licence in _edges(child, files, faults):
            own = folder if edge.parent == root else folders.get(edge.parent)
            if edge.parent not in nodes:
                nodes[edge.parent] = Node(edge.parent, licence, edge.said_by[0] if licence else None, revision)
                if own is not None:
                    parent = Said(own)
                    nodes[edge.parent] = _node(edge.parent, parent, faults)
                    waiting.append((edge.parent, parent))
            edges.append(_tested(edge, at, own, test))
        if len(nodes) > MAX_NODES:
            raise InputError(f"more than {MAX_NODES:,} models", str(folder), "give a smaller lineage")
    return Lineage(root, nodes, tuple(edges), tuple(faults), tuple(cycles(root, edges)))


def cycles(root: str, edges: list[Edge] | tuple[Edge, ...]) -> Iterator[tuple[str, ...]]:
    """Each edge that leads back to a model on its own path, as the walk that it closes. Depth first, no recursion."""
    parents: dict[str, list[str]] = {}
    for edge in edges:
        parents.setdefault(edge.child, []).append(edge.parent)
    path: list[str] = [root]
    on_path, done = {root: 0}, set[str]()
    branches = [iter(parents.get(root, ()))]
    while branches:
        step = next(branches[-1], None)
        if step is None:
            branches.pop()
            left = path.pop()
            del on_path[left]
            done.add(left)
        elif step in on_path:
            yield (*path[on_path[step] :], step)
        elif step not in done:
            on_path[step] = len(path)
            path.append(step)
            branches.append(iter(parents.get(step, ())))


def _node(name: str, files: Said, faults: list[str]) -> Node:
    said = declared_in(files)
    faults += [f"{name}: {fault}" for fault in said["faults"]]
    return Node(name, said["licence"], said["declared_by"], None, files.folder)


def _edges(child: str, files: Said, faults: list[str]) -> Iterator[tuple[Edge, str | None, str | None]]:
    """One edge for each parent and kind of tie, with all that name it; a vague tie is dropped beside a clear one."""
    grouped: dict[tuple[str, Tie], list[Claim]] = {}
    found: list[str] = []
    for claim in claims_in(files, found):
        grouped.setdefault((claim.parent, claim.tie), []).append(claim)
    faults += [line for fault in found if (line := f"{child}: {fault}") not in faults]
    # `derived_from` says nothing that a clear tie to the same weights does not say better.
    clear = {parent for parent, tie in grouped if tie not in ("derived_from", "distilled_from")}
    for (parent, tie), group in grouped.items():
        if tie == "derived_from" and parent in clear:
            continue
        revision = next((claim.revision for claim in group if claim.revision), None)
        licence = next((claim.licence for claim in group if claim.licence), None)
        yield Edge(child, parent, tie, tuple(dict.fromkeys(claim.said_by for claim in group))), revision, licence


def _tested(edge: Edge, child: Path, parent: Path | None, test: Tester | None) -> Edge:
    finding = None if test is None or parent is None or edge.tie == "distilled_from" else test(child, parent)
    if finding is None:
        return edge
    states: dict[str, State] = {"found": "tested", "not_found": "contradicted", "inconclusive": "declared"}
    return Edge(edge.child, edge.parent, edge.tie, edge.said_by, states[finding.decision], finding)


def _node_json(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "licence": node.licence,
        "declared_by": node.declared_by,
        "revision": node.revision,
        "at_hand": node.folder is not None,
    }


def _edge_json(edge: Edge) -> dict[str, Any]:
    finding = edge.finding
    return {
        "child": edge.child,
        "parent": edge.parent,
        "tie": edge.tie,
        "said_by": list(edge.said_by),
        "state": edge.state,
        "log10_p": None if finding is None else finding.log10_p,
        "test": None if finding is None else finding.test,
    }
