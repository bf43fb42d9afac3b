"""Blocks of small graphs, cut by hand."""

import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.reconstruction.blocks import Block, find_blocks
from tests.support import parse_model


def blocks(text: str, **options: int) -> list[Block]:
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    return find_blocks(graph, **options)


def produced(text: str, **options: int) -> list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """Inputs, side inputs and outputs of every block."""
    return [(b.inputs, b.side, b.outputs) for b in blocks(text, **options)]


RESIDUAL = """m (float[N,4,8,8] x) => (float[N,3] y)
<float[4,4,3,3] w0, float[4,4,3,3] w1, float[4,4,3,3] w2, float[4,4,3,3] w3, float[4,4,3,3] w4, float[4,3] w5> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w0)
    r = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (r, w1)
    c = Relu (b)
    d = Conv <pads = [1, 1, 1, 1]> (c, w2)
    s = Add (d, r)
    t = Relu (s)
    e = Conv <pads = [1, 1, 1, 1]> (t, w3)
    f = Relu (e)
    g = Conv <pads = [1, 1, 1, 1]> (f, w4)
    u = Add (g, t)
    v = Relu (u)
    p = GlobalAveragePool (v)
    q = Flatten (p)
    z = MatMul (q, w5)
    y = Softmax (z)
}"""


def test_residual_blocks_come_out_whole_and_end_after_their_activation() -> None:
    assert produced(RESIDUAL, joined=1) == [
        ((), ("x",), ("r",)),
        (("r",), (), ("t",)),
        (("t",), (), ("v",)),
        (("v",), (), ("z",)),
    ]


def test_single_layers_join_their_neighbours() -> None:
    found = blocks(RESIDUAL)
    assert [len(b.layers) for b in found] == [3, 3]
    assert [(b.inputs, b.outputs) for b in found] == [((), ("t",)), (("t",), ("z",))]
    assert found[0].name == f"{found[0].layers[0]} .. {found[0].layers[-1]}"


def test_a_chain_becomes_groups_of_a_size() -> None:
    text = """m (float[N,4] x) => (float[N,4] y)
    <float[4,4] w0, float[4,4] w1, float[4,4] w2, float[4,4] w3, float[4,4] w4> {
        a = MatMul (x, w0)
        b = MatMul (a, w1)
        c = MatMul (b, w2)
        d = MatMul (c, w3)
        y = MatMul (d, w4)
    }"""
    assert [b.outputs for b in blocks(text, joined=3)] == [("c",), ("y",)]
    assert [b.outputs for b in blocks(text, joined=1)] == [(t,) for t in "abcdy"]


ATTENTION = """m (float[N,5,8] x, bool[N,1,5] mask) => (float[N,5,8] y)
<float[8,8] wi, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,8] wo, float[8,16] wf, float[16,8] wg,
 float[8] scale, float[8] beta, float minus> {
    h = MatMul (x, wi)
    n = LayerNormalization <axis = -1> (h, scale, beta)
    q = MatMul (n, wq)
    k = MatMul (n, wk)
    v = MatMul (n, wv)
    kt = Transpose <perm = [0, 2, 1]> (k)
    a = MatMul (q, kt)
    hidden = Where (mask, a, minus)
    p = Softmax (hidden)
    c = MatMul (p, v)
    shape = Shape (h)
    same = Reshape (c, shape)
    o = MatMul (same, wo)
    s = Add (o, h)
    f = MatMul (s, wf)
    g = Relu (f)
    e = MatMul (g, wg)
    y = Add (e, s)
}"""


def test_attention_comes_out_whole_with_its_mask_beside_it() -> None:
    found = blocks(ATTENTION, joined=1)
    assert [(b.inputs, b.side, b.outputs) for b in found] == [
        ((), ("x",), ("h",)),
        (("h",), ("mask",), ("s",)),
        (("s",), (), ("y",)),
    ]
    assert [len(b.layers) for b in found] == [1, 4, 2]


def test_shapes_of_its_own_tensors_are_taken_into_a_block() -> None:
    graph = LpGraph.from_proto(parse_model(ATTENTION))
    graph.infer_shapes()
    attention = find_blocks(graph, joined=1)[1]
    assert "Shape" in {graph.node(n).op for n in attention.nodes}


BRANCHES = """m (float[N,4] x) => (float[N,4] y, float[N,4] z)
<float[4,4] w0, float[4,4] w1, float[4,4] w2, float[4,4] w3, float[4,4] w4, float[4,4] w5> {
    a = MatMul (x, w0)
    b = MatMul (a, w1)
    c = MatMul (a, w2)
    d = MatMul (b, w3)
    e = MatMul (c, w4)
    y = MatMul (d, w5)
    z = Add (e, b)
}"""


def test_branches_that_never_meet_stay_one_block() -> None:
    assert produced(BRANCHES) == [((), ("x",), ("a",)), (("a",), (), ("y", "z"))]


def test_a_large_block_is_cut_where_two_tensors_cross() -> None:
    found = blocks(BRANCHES, large=4, joined=1)
    assert [b.outputs for b in found] == [("a",), ("b", "c"), ("y", "z")]
    assert found[2].inputs == ("b", "c")
    assert [len(b.layers) for b in found] == [1, 2, 3]


def test_a_graph_without_cut_is_one_block() -> None:
    text = """m (float[N,4] x) => (float[N,4] y, float[N,4] z) <float[4,4] w0, float[4,4] w1> {
        y = MatMul (x, w0)
        z = MatMul (x, w1)
    }"""
    assert produced(text) == [((), ("x",), ("y", "z"))]


def test_masks_and_indices_are_no_outputs_of_a_block() -> None:
    text = """m (float[N,4,8,8] x) => (float[N,4,2,2] y, bool[N,4,8,8] mask, int64[N,4,4,4] at)
    <float[4,4,3,3] w0, float[4,4,3,3] w1> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0)
        b, mask = Dropout (a)
        p, at = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
        y = Conv (p, w1)
    }"""
    assert produced(text) == [((), ("x",), ("y",))]


def test_a_graph_without_layers_has_no_blocks() -> None:
    assert blocks("m (float[N,4] x) => (float[N,4] y) { y = Relu (x) }") == []


def test_a_tensor_that_a_body_reads_is_no_place_to_cut() -> None:
    text = """m (float[N,4] x, bool flag) => (float[N,4] y) <float[4,4] w0, float[4,4] w1> {
        a = MatMul (x, w0)
        b = If (flag) <
            then_branch = t () => (float[N,4] p) { p = Relu (a) },
            else_branch = e () => (float[N,4] q) { q = Neg (a) }
        >
        y = MatMul (b, w1)
    }"""
    (block,) = blocks(text, joined=2)
    assert block.outputs == ("y",)
    assert set(block.side) == {"x", "flag"}


@pytest.mark.parametrize("tail", ["Softmax", "Transpose"])
def test_what_follows_the_last_layer_without_belonging_to_it_is_left_out(tail: str) -> None:
    text = f"""m (float[N,4] x) => (float[M,K] y) <float[4,4] w> {{
        a = MatMul (x, w)
        r = Relu (a)
        y = {tail} (r)
    }}"""
    assert produced(text) == [((), ("x",), ("r",))]
