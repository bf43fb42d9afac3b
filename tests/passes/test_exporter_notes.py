"""`canonicalize` leaves out what an exporter wrote down for itself, and nothing else that is said of nodes."""

from onnx import ModelProto

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.canonicalize import Canonicalize
from lpcompile.pipeline import PassContext
from tests.support import parse_model

TEXT = "m (float[2,3] x) => (float[2,3] y) { a = Exp (x)  b = Neg (a)  y = Tanh (b) }"
NOTES = {
    "pkg.torch.onnx.stack_trace": "File a.py, line 3",
    "namespace": ": A/B",
    "pkg.onnxscript.rewriter.rule_name": "R",
}
OWN = {"namespace": "of the user", "lpcompile.rounding": "nearest", "torch": "no"}


def noted() -> ModelProto:
    """The first node has notes and words of its own, the second words alone, the graph both."""
    model = parse_model(TEXT)
    for node, words in zip(model.graph.node, ({**NOTES, "mine": "1"}, OWN, {}), strict=True):
        for key, value in words.items():
            node.metadata_props.add(key=key, value=value)
    model.graph.metadata_props.add(key="pkg.torch.export.graph_signature", value="sign")
    model.graph.metadata_props.add(key="team", value="vision")
    model.metadata_props.add(key="pkg.torch.version", value="2.9")
    return model


def words(proto: ModelProto) -> list[dict[str, str]]:
    return [{e.key: e.value for e in n.metadata_props} for n in proto.graph.node]


def test_notes_of_nodes_and_of_the_graph_go_and_the_rest_stays() -> None:
    graph = LpGraph.from_proto(noted())
    copy = graph.copy()
    report = Canonicalize().run(graph, PassContext())
    made = graph.to_proto()
    assert words(made) == [{"mine": "1"}, OWN, {}]
    assert [e.key for e in made.graph.metadata_props] == ["team"]
    assert [e.key for e in made.metadata_props] == ["pkg.torch.version"], "what is said of the model stays"
    bytes_of_text = sum(len(k) + len(v) for k, v in NOTES.items()) + len(
        "pkg.torch.export.graph_signaturesign"
    )
    assert [c.what for c in report.changes] == [
        f"notes of the exporter at 1 nodes left out: {bytes_of_text} bytes"
    ]
    assert len(copy.to_proto().graph.metadata_props) == 2, "a copy made before is not touched"


def test_a_second_run_changes_nothing() -> None:
    graph = LpGraph.from_proto(noted())
    Canonicalize().run(graph, PassContext())
    assert not Canonicalize().run(graph, PassContext()).changes
