"""`distribution-heterogeneous`: each kind of layer gets its format; powers of two never unasked; the rule by hand."""

import numpy as np
import pytest
from onnx import numpy_helper

from lpcompile.errors import LpcompileError, PassOptionError
from lpcompile.formats.base import resolve
from lpcompile.passes.distribution_heterogeneous import DECIDED, DistributionHeterogeneous
from lpcompile.quant.fit import fit
from lpcompile.registry import pass_class
from tests.quantizing import NO_COSTS, quantized
from tests.support import parse_model

NET = """m (float[1,3,8,8] x) => (float[1,5] y)
<float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8] b2, float[16,8,1,1] w3, float[16] b3,
 float[16,16,3,3] w4, float[16,5] w5> {
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  ra = Relu (a)
    [depthwise] b = Conv <group = 8, pads = [1, 1, 1, 1]> (ra, w2, b2)  rb = Relu (b)
    [point] c = Conv (rb, w3, b3)  rc = Relu (c)
    [full] d = Conv (rc, w4)  rd = Relu (d)
    p = GlobalAveragePool (rd)  f = Flatten (p)  [head] y = MatMul (f, w5)
}"""
NAME = "distribution-heterogeneous"
ROUND = "quantize-weights{rule=mse}"


def formats(options: str, net: str = NET) -> dict[str, str]:
    found = quantized(net, f"{NO_COSTS},{NAME}{options},{ROUND}", calls=6)
    return {n: p.weight.format for n, p in found.graph.plan.layers.items()}


def test_depthwise_layers_and_ends_have_8_bits_and_no_powers_of_two_come_unasked() -> None:
    wanted = {"stem": "int8", "depthwise": "int8", "point": "fixp4", "full": "fixp4", "head": "int8"}
    assert formats("") == wanted
    assert formats("{pot4=pointwise}") == {**wanted, "point": "pot4"}
    assert formats("{last=nf4}") == {**wanted, "head": "nf4"}
    four = formats("{depthwise=fixp4,ends=nf4,format=posit4}")
    assert four == {"stem": "nf4", "depthwise": "fixp4", "point": "posit4", "full": "posit4", "head": "nf4"}


def test_the_rule_by_hand() -> None:
    found = quantized(NET, NO_COSTS, calls=2)
    node = found.graph.node("point")
    rows = numpy_helper.to_array(next(t for t in found.original.graph.initializer if t.name == "w3")).reshape(
        16, -1
    )
    prices = {}
    for fmt, acev2 in (("fixp4", 32), ("pot4", 8)):
        error = fit(rows, resolve(fmt), rule="mse").dequantize() - rows
        prices[fmt] = float(
            np.square(error, dtype=np.float64).sum() / np.square(rows, dtype=np.float64).sum()
        )
        for weight in (0.0, 0.3):
            wanted = prices[fmt] + weight * acev2 / 64
            assert DistributionHeterogeneous(weight=weight).price(node, fmt) == pytest.approx(wanted)
    assert prices["fixp4"] < prices["pot4"]
    assert formats("{pot4=rule,weight=0}")["point"] == "fixp4"
    assert formats("{pot4=rule,weight=10}")["point"] == "pot4"


def test_heavy_tails_suit_powers_of_two() -> None:
    model = parse_model(NET)
    for t in model.graph.initializer:
        if t.name == "w3":
            w = np.random.default_rng(0).standard_t(2, (16, 8, 1, 1)) ** 3
            t.CopyFrom(numpy_helper.from_array(w.astype(np.float32), t.name))
    found = quantized(model, f"{NO_COSTS},{NAME}{{pot4=rule,weight=0}}", calls=2)
    assert found.graph.plan.layers["point"].weight.format == "pot4"


def test_a_second_run_and_every_reason() -> None:
    found = quantized(NET, f"{NO_COSTS},{NAME}", calls=6)
    before = found.graph.plan
    report = found.rerun(NAME)[NAME]
    assert not report.changes
    assert {s.reason for s in report.skips} == {DECIDED}
    assert found.graph.plan == before
    kept = quantized(NET, NO_COSTS, calls=6)
    plan = kept.graph.plan
    kept.graph.plan = plan.without({"point"}, "kept float on request")
    assert ("point", "kept float on request") in {(s.node, s.reason) for s in kept.rerun(NAME)[NAME].skips}


@pytest.mark.parametrize("options", [{"pot4": "always"}, {"weight": -1}, {"format": "int99"}])
def test_options_that_mean_nothing(options: dict[str, object]) -> None:
    with pytest.raises((PassOptionError, LpcompileError)):
        pass_class(NAME).configured(options)
