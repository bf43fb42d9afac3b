"""Every operator with a rule has a case, and what has none is named."""

import ast
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import lpcompile.autodiff.rules as rules_package
from lpcompile.autodiff.registry import FAMILIES, STOPS, operators
from lpcompile.autodiff.reverse import add_gradients
from lpcompile.errors import GradientError
from lpcompile.ir.graph import LpGraph
from tests.autodiff.gradients import reverse_mode
from tests.support import parse_model


def _written(path: Path) -> set[str]:
    """Words in the strings of a file, docstrings aside: operators of the models that it builds."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    strings = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings)
    return {word for n in strings if isinstance(n.value, str) for word in re.findall(r"\w+", n.value)}


def test_every_operator_with_a_rule_is_tested() -> None:
    files = [p for p in sorted(Path(__file__).parent.glob("test_*.py")) if p.name != Path(__file__).name]
    written = set().union(*(_written(p) for p in files))
    names = {name.split("::")[-1] for name in operators()}
    assert names - written == set()


def test_every_file_with_rules_is_a_family() -> None:
    folder = Path(rules_package.__path__[0])
    decorated = [
        p.stem
        for p in sorted(folder.glob("*.py"))
        if re.search(r"^@(rule|elementwise)\(", p.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert decorated == sorted(FAMILIES)


def test_no_operator_both_stops_the_gradient_and_has_a_rule() -> None:
    assert set(operators()) & STOPS == set()


BODIES = {
    "If": """(double[2] x, bool c) => (double[2] y) {
        [here] y = If (c) <then_branch = t () => (double[2] p) { p = Neg (x) },
                           else_branch = e () => (double[2] q) { q = Identity (x) }> }""",
    "Loop": """(double[2] x, bool c, int64 n) => (double[2] y) {
        [here] y = Loop <body = b (int64 i, bool k, double[2] o) => (bool l, double[2] p)
                         { l = Identity (k)  p = Neg (o) }> (n, c, x) }""",
    "Scan": """(double[2] x) => (double[2] y) {
        [here] y = Scan <num_scan_inputs = 1, body = b (double o) => (double p) { p = Neg (o) }> (x) }""",
    "Det": "(double[2,2] x) => (double y) { [here] y = Det (x) }",
    "my.ops::Fancy": "(double[2] x) => (double[2] y) { [here] y = my.ops.Fancy (x) }",
}


@pytest.mark.parametrize("op", BODIES)
def test_an_operator_without_a_rule_is_named_with_its_node(op: str) -> None:
    imports = '["" : 17, "my.ops" : 1]'
    graph = LpGraph.from_proto(
        onnx.parser.parse_model(f"<ir_version: 8, opset_import: {imports}> g {BODIES[op]}")
    )
    seed = graph.constant("seed", np.ones(2))
    with pytest.raises(GradientError, match=f"operator {op} has no gradient") as caught:
        add_gradients(graph, {"y": seed}, ["x"])
    assert caught.value.where == "here"


def test_what_stops_a_gradient_gives_none() -> None:
    model = parse_model("rounded (double[2] x) => (double[2] y) { y = Round (x) }")
    assert reverse_mode(model, {"x": np.ones(2)}, ["x"]) == {"x": None}
