"""The graph of a term has its operations, its sharing and its order, and no more."""

import re
from random import Random

import networkx as nx
import pytest

from archloom.search_space import zoo
from archloom.search_space.graph import to_dot, to_graph
from archloom.search_space.identity import canonical
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, build, size
from archloom.search_space.text import parse

QUERY, KEY = "silu(project(x))", "relu(project(x))"


def mixer(body: str) -> Term:
    return parse(f"mix({body}, heads=2)")


def attention(value: str) -> Term:
    return mixer(f"apply(masked(dot({QUERY}, {KEY}), visible), {value})")


def same(left: Term, right: Term) -> bool:
    """Isomorphic with equal operations, values, types and argument positions."""
    return nx.is_isomorphic(
        to_graph(left),
        to_graph(right),
        node_match=lambda a, b: a == b,
        edge_match=lambda a, b: a["positions"] == b["positions"],
    )


def test_nodes_and_edges_of_a_small_term() -> None:
    graph = to_graph(parse("conv(project(x, share=2), width=3)"))
    assert dict(graph.nodes(data=True)) == {
        0: {"operation": "conv", "values": (3,), "type": "feature", "label": "conv width=3"},
        1: {"operation": "project", "values": (2,), "type": "feature", "label": "project share=2"},
        2: {"operation": "x", "values": (), "type": "stream", "label": "x"},
    }
    assert list(graph.edges(data="positions")) == [(0, 1, (0,)), (1, 2, (0,))]


def test_a_let_is_one_node_with_a_parent_for_every_use() -> None:
    tied = to_graph(mixer("let k = project(x) in apply(masked(dot(silu(k), unit(k)), visible), value(x))"))
    apart = to_graph(mixer("apply(masked(dot(silu(project(x)), unit(project(x))), visible), value(x))"))

    def projections(graph: nx.DiGraph) -> list[int]:
        return [graph.in_degree(n) for n, name in graph.nodes(data="operation") if name == "project"]

    assert projections(tied) == [2]
    assert projections(apart) == [1, 1]


def test_a_stream_taken_twice_by_one_operation_keeps_both_positions() -> None:
    graph = to_graph(mixer("let k = project(x) in apply(masked(dot(k, k), visible), value(x))"))
    (positions,) = [p for a, _, p in graph.edges(data="positions") if graph.nodes[a]["operation"] == "dot"]
    assert positions == (0, 1)


def test_a_let_never_joins_two_mixers() -> None:
    part = mixer("let k = project(x) in apply(masked(dot(k, k), visible), value(x))")
    chain = OPERATIONS["chain"]
    graph = to_graph(build(chain, tuple(p.default for p in chain.parameters), (part, part)))
    projections = [graph.in_degree(n) for n, name in graph.nodes(data="operation") if name == "project"]
    assert projections == [1, 1]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (attention("mul(value(x), silu(value(x)))"), attention("mul(silu(value(x)), value(x))")),
        (attention("add(add(value(x), norm(value(x))), silu(value(x)))"),
         attention("add(norm(value(x)), add(silu(value(x)), value(x)))")),
    ],
)  # fmt: skip
def test_commuted_terms_have_isomorphic_graphs_once_canonical(left: Term, right: Term) -> None:
    assert not same(left, right)
    assert same(canonical(left), canonical(right))


def test_the_order_of_queries_and_keys_is_seen() -> None:
    assert not same(
        mixer(f"apply(masked(dot({QUERY}, {KEY}), visible), value(x))"),
        mixer(f"apply(masked(dot({KEY}, {QUERY}), visible), value(x))"),
    )


@pytest.mark.parametrize("name", zoo.names())
def test_no_two_systems_of_the_zoo_are_alike(name: str) -> None:
    assert [other for other in zoo.names() if same(zoo.load(other), zoo.load(name))] == [name]


def test_a_graph_has_a_node_for_every_operation_and_hangs_together() -> None:
    sampler, rng = Sampler.default(depth=2), Random(0)
    for _ in range(100):
        term = sampler.architecture(rng)
        graph = to_graph(term)
        assert graph.number_of_nodes() == size(term)
        assert nx.is_directed_acyclic_graph(graph)
        assert nx.descendants(graph, 0) | {0} == set(graph)
        assert same(term, parse(term.text))


def test_the_picture_draws_the_graph_upwards() -> None:
    term = zoo.load("kda")
    graph, dot = to_graph(term), to_dot(term)
    nodes = {int(n): label for n, label in re.findall(r'^  n(\d+) \[label="([^"]+)"\];$', dot, re.M)}
    edges = {(int(parent), int(child)) for child, parent in re.findall(r"^  n(\d+) -> n(\d+)", dot, re.M)}
    assert nodes == dict(graph.nodes(data="label"))
    assert edges == set(graph.edges)
    ordered = {(int(parent), int(child)) for child, parent in re.findall(r"^  n(\d+) -> n(\d+) \[label", dot, re.M)}
    assert ordered == {(parent, child) for parent, child in graph.edges if graph.out_degree(parent) > 1}
    assert re.fullmatch(r"digraph term \{\n(  [^\n]+;\n)+\}\n", dot)
