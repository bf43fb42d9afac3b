"""S1 ... S4 of candidates on a layer that can be worked out by hand: one output, one sample, gradient = input."""

import numpy as np
import pytest

from lpcompile.analysis.gradients import Samples, choose_head
from lpcompile.analysis.inner_products import InnerProducts
from lpcompile.analysis.scores import F64
from lpcompile.analysis.weight_moments import per_weight_scores
from lpcompile.assignment.candidates import FittedCandidates, fit_candidates
from lpcompile.assignment.rule_scores import RuleScores
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import WeightPlan
from tests.quantizing import context
from tests.support import parse_model

LINEAR = "m (float[N,6] x) => (float[N,1] y) <float[6,1] w> { y = MatMul (x, w) }"
W = np.array([0.30, -0.02, 0.07, -0.55, 0.11, 0.9], np.float32)
G = np.array([0.5, -2, 1, 0.1, -0.4, 0.05], np.float32)
FIXP4 = np.array([0.25, 0, 0.125, -0.5, 0.125, 0.875])  # notes 6.7
POSIT4 = np.array([0.25, 0, 0.0625, -0.5, 0.125, 1.0])
SIZE = 1 / abs(float(W @ G))  # of the probe: one over the output


class Toy:
    """y = w x with fixp4 and posit4sc,4 at the scales of the notes."""

    def __init__(self, x: F64 | np.ndarray, text: str = LINEAR, bias: F32 | None = None) -> None:
        model = parse_model(text, opset=17)
        self.graph = LpGraph.from_proto(model)
        self.graph.infer_shapes()
        node = self.graph.layers()[0]
        self.graph.set_weights(node, W[:, None], bias)
        self.name = node.name
        self.context = context(model, 0)
        self.samples = Samples([{"x": np.asarray(x, np.float32)[None]}], per_sample=True)
        plans = [WeightPlan(f, "tensor", "fixed") for f in ("fixp4", "posit4")]
        self.fitted: FittedCandidates = fit_candidates(W[None], plans, prune=False)

    def scores(self, rule: str, mean: F64 | None = None) -> F64:
        """Of fixp4 and posit4; a bias takes the error of the mean input away where that is given."""
        assert self.context.observe is not None
        assert self.context.open_patched is not None
        rules = RuleScores(
            self.graph,
            {self.name: self.fitted},
            self.samples,
            self.context.observe,
            self.context.open_patched,
            centre={} if mean is None else {self.name: mean},
        )
        return rules.of(rule)[self.name].mean

    def diagonal(self) -> list[float]:
        """S2 by the diagonal of E[g^2]."""
        assert self.context.observe is not None
        head = choose_head(self.graph, "probe", self.context.observe, self.samples)
        found = []
        for c in self.fitted.candidates:
            products = InnerProducts(self.graph, head, self.samples, 1)
            errors = {self.name: self.fitted.error(c)}
            found.append(per_weight_scores(products, errors, self.context.observe, 0)[1][self.name].value)
        return found


def test_the_candidates_are_those_of_the_notes() -> None:
    values = [c.tensor.dequantize().ravel() for c in Toy(G).fitted.candidates]
    np.testing.assert_array_equal(values, [FIXP4, POSIT4])


def test_the_rules_disagree_in_sign_on_the_toy_of_the_notes() -> None:
    """Gain of posit4: -0.0079689 by S1, +0.00147266 by the diagonal S2."""
    toy = Toy(G)
    s1, s2 = toy.scores("gradient"), toy.diagonal()
    assert s1[0] - s1[1] == pytest.approx(-0.0079689 * SIZE, rel=1e-4)
    assert s2[0] - s2[1] == pytest.approx(0.00147266 * SIZE**2, rel=1e-4)


def test_a_measured_candidate_loses_half_its_noise_over_the_signal() -> None:
    found = Toy(G).scores("measured")
    wanted = [0.5 * (float((q - W) @ G) * SIZE) ** 2 for q in (FIXP4, POSIT4)]
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_the_trace_of_a_layer_that_reads_one_number_is_exact() -> None:
    """Then z H z is the same for every z: H = x x^T / y^2."""
    x = np.array([0, 0, 0, 1.5, 0, 0])
    trace = 1.5**2 / float(W[3] * 1.5) ** 2
    wanted = [trace / 2 / 6 * np.square(q - W).sum() for q in (FIXP4, POSIT4)]
    np.testing.assert_allclose(Toy(x).scores("hessian"), wanted, rtol=1e-2)


def test_a_corrected_bias_takes_the_mean_of_the_error_away() -> None:
    """With one sample the mean is all there is."""
    text = "m (float[N,6] x) => (float[N,1] y) <float[6,1] w, float[1] b> { y = Gemm (x, w, b) }"
    found = Toy(G, text, np.zeros(1, np.float32)).scores("measured", G[None].astype(np.float64))
    np.testing.assert_allclose(found, [0, 0], atol=1e-9)
