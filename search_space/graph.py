"""A term as a directed graph: for pictures, for isomorphism, and for whatever networkx can compute.

Edges lead from an operation to its arguments, so node 0 is the whole term and a leaf has no way out. A `let` is no
node: what it binds appears once, with as many parents as it has uses, and two equal but separate subterms stay two
nodes.
"""

import networkx as nx

from archloom.search_space.terms import Term


def to_graph(term: Term) -> nx.DiGraph:
    """The graph of a term; nodes are numbered from 0, a parent before what was first reached through it.

    A node has `operation` (its name), `values` (of its parameters, in their order), `type` (as errors name it) and
    `label` (the operation with its parameters). An edge has `positions`: which arguments of the parent the child is,
    from 0, several where one shared stream is taken twice.
    """
    graph = nx.DiGraph()

    def add(node: Term, bound: dict[int, int]) -> int:
        """The number of a node; `bound` holds those of the `let`s of its mixer by identity."""
        if node.operation.shares:
            if id(node) not in bound:
                bound[id(node)] = add(node.arguments[0], bound)
            return bound[id(node)]
        number: int = graph.number_of_nodes()
        graph.add_node(
            number, operation=node.operation.name, values=node.values, type=node.type.value, label=label(node)
        )
        inside = {} if node.operation.scopes else bound
        for position, argument in enumerate(node.arguments):
            child = add(argument, inside)
            before = graph.edges[number, child]["positions"] if graph.has_edge(number, child) else ()
            graph.add_edge(number, child, positions=(*before, position))
        return number

    add(term, {})
    return graph


def to_dot(term: Term) -> str:
    """The graph in Graphviz's language: data flows upwards, edges carry the argument's position where it matters."""
    graph = to_graph(term)
    lines = ["digraph term {", "  rankdir=BT;", "  node [shape=box];"]
    lines += [f'  n{number} [label="{name}"];' for number, name in graph.nodes(data="label")]
    for parent, child, positions in graph.edges(data="positions"):
        only = graph.out_degree(parent) == 1 and positions == (0,)
        order = "" if only else f' [label="{_ordinals(positions)}"]'
        lines.append(f"  n{child} -> n{parent}{order};")
    return "\n".join([*lines, "}", ""])


def _ordinals(positions: tuple[int, ...]) -> str:
    return ",".join(str(position + 1) for position in positions)


def label(node: Term) -> str:
    """`conv width=4`: an operation with its parameters."""
    named = zip(node.operation.parameters, node.values, strict=True)
    return " ".join([node.operation.name, *(f"{parameter.name}={value}" for parameter, value in named)])
