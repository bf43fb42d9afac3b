"""Fewer bytes, the same numbers, the same graph in the runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from lpcompile.ir.compact import compact, drop_shapes, halve_floats, share_constants
from lpcompile.runtime.sizes import constant_bytes
from tests.support import Array, parse_model, random_feeds, run_model
from tests.support_quant import op_types, optimised

TEXT = """g (float[2,16] x, bool c) => (float[2,16] y, float[2,16] z) <float[16,16] w, float[16,16] v, float[256] f> {
    a = MatMul (x, w)
    b = MatMul (a, v)
    s = Constant <value_ints = [16, 16]> ()
    m = Reshape (f, s)
    y = MatMul (b, m)
    z = If (c) <then_branch = t () => (float[2,16] p) { p = MatMul (x, v) },
                else_branch = e () => (float[2,16] q) { q = Neg (x) }>
}"""
Step = Callable[[ModelProto], int]


def model(**values: Array) -> ModelProto:
    found = parse_model(TEXT, check=False)
    for t in found.graph.initializer:
        if t.name in values:
            t.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[t.name]), t.name))
    return found


def smaller(step: Step, before: ModelProto, tmp_path: Path) -> tuple[ModelProto, int]:
    """What a step makes; outputs stay what they are, bit for bit, and so does the graph that runs."""
    after = ModelProto()
    after.CopyFrom(before)
    count = step(after)
    feeds = random_feeds(before)
    wanted, found = run_model(before, feeds), run_model(after, feeds)
    for name, expected in wanted.items():
        np.testing.assert_array_equal(found[name], expected)
    assert op_types(optimised(after, tmp_path)) == op_types(optimised(before, tmp_path))
    return after, count


W = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)


@pytest.mark.parametrize(("v", "op"), [(W, "Identity"), (W.T, "Transpose")])
def test_a_repeated_constant_is_computed(v: Array, op: str, tmp_path: Path) -> None:
    after, count = smaller(share_constants, model(w=W, v=v), tmp_path)
    assert count == 1
    assert after.graph.node[0].op_type == op
    assert after.graph.node[0].output == ["v"]
    assert {t.name for t in after.graph.initializer} == {"w", "f"}


def test_a_constant_in_another_shape_is_computed(tmp_path: Path) -> None:
    after, count = smaller(share_constants, model(w=W, f=W.reshape(-1)), tmp_path)
    assert count == 1
    assert [n.op_type for n in after.graph.node[:2]] == ["Constant", "Reshape"]
    assert constant_bytes(after) == 2 * 1024


def test_constants_that_differ_stay(tmp_path: Path) -> None:
    before = model(w=W, v=W + 1)
    after, count = smaller(share_constants, before, tmp_path)
    assert count == 0
    assert after == before


def test_floats_that_float16_holds_are_stored_as_float16(tmp_path: Path) -> None:
    coarse = W.astype(np.float16).astype(np.float32)
    after, count = smaller(halve_floats, model(w=coarse, v=W, f=coarse.reshape(-1)), tmp_path)
    assert count == 2
    assert {t.name: t.data_type for t in after.graph.initializer} == {"w/half": 10, "v": 1, "f/half": 10}
    assert constant_bytes(after) == 512 + 1024 + 512


@pytest.mark.parametrize("bad", [1e6, 1e-9, np.nan])
def test_other_floats_stay(bad: float, tmp_path: Path) -> None:
    values = np.ones((16, 16), np.float32)
    values[3, 3] = bad
    after, _ = smaller(halve_floats, model(w=values, v=values, f=values.reshape(-1)), tmp_path)
    assert {t.data_type for t in after.graph.initializer} == {1}


def test_shapes_go_last_and_nothing_is_done_to_a_model_that_fits(tmp_path: Path) -> None:
    before = model(w=W, v=W)
    before.graph.value_info.extend([before.graph.output[0]])
    before.graph.value_info[0].name = "a"
    after, count = smaller(drop_shapes, before, tmp_path)
    assert (count, len(after.graph.value_info)) == (1, 0)
    assert compact(before, lambda _: True) == []
    small = constant_bytes(before) - 1024
    assert compact(before, lambda p: constant_bytes(p) <= small) == ["share constants: 1 tensors"]
    assert len(before.graph.value_info) == 1
    assert compact(before, lambda _: False) == ["drop shapes: 1 tensors"]


def test_small_constants_and_outputs_stay(tmp_path: Path) -> None:
    text = """g (float[1] x) => (float[80] a, float[80] b, float[4] y)
        <float[80] a, float[80] b, float[4] u, float[4] v> {
        s = Add (u, v)  y = Add (s, x) }"""
    before = parse_model(text, check=False)
    for t in before.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(np.ones(t.dims[0], np.float32), t.name))
    after = ModelProto()
    after.CopyFrom(before)
    assert share_constants(after) == halve_floats(after) == 0
    assert after == before
