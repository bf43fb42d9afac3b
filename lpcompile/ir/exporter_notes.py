"""What an exporter writes down for its own debugging: stack traces, class names, scopes, signatures.

PyTorch's exporter of 2.5 and later keeps them as metadata of every node, more bytes than the weights of a small network
in few bits, and paths of the machine it ran on. No reader of a model needs them.
"""

from onnx import ModelProto

from lpcompile.ir.graph import LpGraph

PREFIXES = ("pkg.torch.", "pkg.onnxscript.")
WITH_THEM = ("namespace",)  # a common word: theirs only beside one of the others


def drop_exporter_notes(graph: LpGraph) -> tuple[int, int]:
    """Leave them out, but those in bodies of control flow; of how many nodes, and how many bytes of text."""
    nodes = size = 0
    for node in graph.nodes():
        found = [k for k in node.metadata if k.startswith(PREFIXES)]
        if found:
            found += [k for k in WITH_THEM if k in node.metadata]
            size += sum(len(k) + len(node.metadata.pop(k)) for k in found)
            nodes += 1
    return nodes, size + _of_graph(graph)


def _of_graph(graph: LpGraph) -> int:
    found = [e for e in getattr(graph._header.graph, "metadata_props", ()) if e.key.startswith(PREFIXES)]
    if found:
        header = ModelProto()
        header.CopyFrom(graph._header)  # copies of the graph share it
        for entry in found:
            header.graph.metadata_props.remove(entry)
        graph._header = header
    return sum(len(e.key) + len(e.value) for e in found)
