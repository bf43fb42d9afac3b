"""Generated networks for `cim`: whatever the graph, numpy's integers are those of ONNX Runtime, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lpcompile
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate
from tests.support import parse_model, random_feeds, run_model

CHANNELS = 4
STEPS = {
    "conv": "{y} = Conv <pads=[1,1,1,1]> ({x}, w{i}, b{i})",
    "depthwise": "{y} = Conv <pads=[1,1,1,1], group=4> ({x}, d{i}, b{i})",
    "relu": "{y} = Relu ({x})",
    "clip": "{y} = Clip ({x}, lo, hi)",
    "sigmoid": "{y} = Sigmoid ({x})",
    "leaky": "{y} = LeakyRelu <alpha=0.3> ({x})",
    "prelu": "{y} = PRelu ({x}, c)",
    "silu": "s{i} = Sigmoid ({x})\n{y} = Mul ({x}, s{i})",
    "gelu": "e{i} = Erf ({x})\nf{i} = Add (e{i}, one)\n{y} = Mul (f{i}, {x})",
    "affine": "{y} = Mul ({x}, c)",
    "number": "{y} = Add ({x}, hi)",
    "add": "{y} = Add ({x}, {old})",
    "mul": "{y} = Mul ({x}, {old})",
    "average": "{y} = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> ({x})",
    "max": "{y} = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> ({x})",
    "transpose": "{y} = Transpose <perm=[0,1,3,2]> ({x})",
    "softmax": "{y} = Softmax <axis=1> ({x})",
}


def network(steps: list[str], olds: list[int], ends: bool) -> str:
    names, nodes, constants = (
        ["x"],
        [],
        ["float[4,1,1] c", "float lo = {-0.2}", "float hi = {0.7}", "float one = {1}"],
    )
    for i, (step, old) in enumerate(zip(steps, olds, strict=True)):
        fields = {"y": f"t{i}", "x": names[-1], "old": names[old % len(names)], "i": i}
        nodes.append(STEPS[step].format(**fields))
        names.append(f"t{i}")
        constants += [f"float[4,4,3,3] w{i}", f"float[4,1,3,3] d{i}", f"float[4] b{i}"]
    last = names[-1]
    if ends:
        nodes += [f"g = GlobalAveragePool ({last})", "f = Flatten (g)", "y = Gemm (f, wf, bf)"]
        constants += ["float[4,3] wf", "float[3] bf"]
    else:
        nodes.append(f"y = Conv ({last}, wl)")
        constants.append("float[3,4,1,1] wl")
    shape = "N,3" if ends else "N,3,6,6"
    body = "\n".join(nodes)
    used = [
        c
        for c in constants
        if f" {c.split()[1]}" in body.replace(",", " ").replace(")", " ").replace("(", " ")
    ]
    return f"net (float[N,4,6,6] x) => (float[{shape}] y) <{', '.join(used)}> {{ {body} }}"


@settings(max_examples=4)
@given(st.data())
def test_numpy_and_onnxruntime_agree(data: st.DataObject) -> None:
    agree(data)


@pytest.mark.thorough
@settings(max_examples=40)
@given(st.data())
def test_they_agree_on_many(data: st.DataObject) -> None:
    agree(data)


def agree(data: st.DataObject) -> None:
    """Compile a drawn network, and compare."""
    steps = data.draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7))
    olds = data.draw(st.lists(st.integers(0, 7), min_size=len(steps), max_size=len(steps)))
    model = parse_model(network(steps, olds, data.draw(st.booleans())))
    recipe = data.draw(st.sampled_from(["int8", "w4a8", "w4a4", "pikelpn"]))
    calls = [random_feeds(model, seed=i) for i in range(5)]
    made = lpcompile.compile(model, target="cim", calibration=calls, recipe=recipe)
    assert all(r["weight_format"] != "float32" for r in made.report["layers"])
    assert all(c.different == 0 for c in check_layers(made.model, calls[0], positions=10_000))
    if "softmax" not in steps:  # the host's own floats
        found = run_model(made.model, calls[1])["y"]
        np.testing.assert_array_equal(evaluate(made.model, calls[1])["y"], found)
