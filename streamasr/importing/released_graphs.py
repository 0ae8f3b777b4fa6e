"""Released graphs that are used unchanged: the choice among several, names of their files."""

from collections.abc import Collection, Iterable, Sequence

from streamasr.core.errors import ModelError
from streamasr.importing.onnx_file import GraphInfo


def best_graph(graphs: Sequence[GraphInfo]) -> GraphInfo:
    """Return the graph with the most bits.

    Raises:
        ModelError: several graphs have the most bits.
    """
    best = max(graphs, key=lambda graph: graph.bits)
    equals = [graph for graph in graphs if graph.bits == best.bits]
    if len(equals) > 1:
        names = " and ".join(graph.path.name for graph in equals)
        raise ModelError(
            f"{best.path.parent} contains {names}, and it is not clear which one to use; put the "
            "files of each model into a separate folder.",
            code="ambiguous_parts",
        )
    return best


def check_data_files(graphs: Iterable[GraphInfo], reserved: Collection[str]) -> None:
    """Check the names of external weights, which the graphs state and thus must stay.

    Args:
        graphs: to be stored in one model directory.
        reserved: names of its other files, in lower case.

    Raises:
        ModelError: a file has a reserved name.
    """
    for path in (path for graph in graphs for path in graph.data_files):
        if path.name.lower() in reserved:
            raise ModelError(
                f"{path} contains the weights of a graph, but its name is reserved for another "
                "file of a model directory; export the graph with another name for its external "
                "data.",
                code="reserved_name",
            )
