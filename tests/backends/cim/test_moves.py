"""Nodes that move codes, each between two layers: on the machine with the integers of ONNX Runtime, or on the host."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from lpcompile.backends.cim.moves import nearest_factors
from lpcompile.ir.graph import LpGraph
from tests.backends.cim.network_checks import check, compiled, program_of
from tests.support import parse_model, random_feeds, run_model

NETWORK = """net (float[N,4,4,6] x) => (float[a,b,c,d] y) <float[8,4,1,1] w1, float[3,{c},1,1] w2, {constants}> {{
    a = Conv (x, w1)
    {move}
    y = Conv (b, w2) }}"""
LISTS = """int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] last = {-1}, int64[1] far = {-100},
    int64[2] both = {2, 3}, int64[2] parts = {3, 5}, int64[3] picks = {3, 0, 5}, int64[3] evens = {0, 2, 4},
    int64[4] times = {1, 1, 2, 3}, int64[8] pads = {0, 1, 2, 0, 0, 0, 1, 0}, int64[8] cuts = {0, 0, -1, 0, 0, 0, 0, 0},
    int64[4] shape = {0, 4, 8, 6}, int64[4] batch = {-1, 8, 2, 1}, int64[5] five = {0, 4, 2, 4, 6},
    int64 zero = {0}, int64[1] first = {0}, int64[3] rest = {8, 4, 6}, int64[1,2] table, int64[1,2] rising,
    float[4] twice = {1, 1, 2, 3}, float[4] half = {1, 1, 1.5, 1},
    float value = {0.3},
    int64[4] wide = {1, 8, 4, 6}"""
ON_THE_MACHINE = {
    "concat": (16, "b = Concat <axis = 1> (a, a)"),
    "concat of rows": (8, "c = Relu (a)\nd = MaxPool <kernel_shape = [1, 1]> (c)\nb = Concat <axis = -2> (d, a)"),
    "slice": (8, "b = Slice (a, one, three, two)"),
    "slice with steps": (8, "b = Slice (a, one, last, three, two)"),
    "split": (5, "c, b = Split <axis = 1> (a, parts)"),
    "transpose": (6, "b = Transpose <perm = [0, 3, 2, 1]> (a)"),
    "reshape": (4, "b = Reshape (a, shape)"),
    "five axes": (8, "c = Reshape (a, five)\nd = Transpose <perm = [0, 2, 1, 3, 4]> (c)\nb = Flat (d)"),
    "pad": (9, "b = Pad (a, pads)"),
    "pad with a value": (9, "b = Pad (a, pads, value)"),
    "resize": (8, "b = Resize <nearest_mode = 'floor', coordinate_transformation_mode = 'asymmetric'> (a, , twice)"),
    "tile": (8, "b = Tile (a, times)"),
    "expand": (8, "c = GlobalAveragePool (a)\nb = Expand (c, wide)"),
    "gather": (8, "b = Gather <axis = 3> (a, picks)"),
    "gather of every other": (8, "b = Gather <axis = 3> (a, evens)"),
    "gather of one": (8, "c = Gather <axis = 2> (a, zero)\nb = Unsqueeze (c, two)"),
    "gather of a table": (8, "c = Gather <axis = 3> (a, table)\nb = Squeeze (c, three)"),
    "gather of a table in order": (8, "c = Gather <axis = 3> (a, rising)\nb = Squeeze (c, three)"),
    "depth to space": (2, "b = DepthToSpace <blocksize = 2> (a)"),
    "depth to space, columns first": (2, "b = DepthToSpace <blocksize = 2, mode = 'CRD'> (a)"),
    "space to depth": (32, "b = SpaceToDepth <blocksize = 2> (a)"),
    "squeeze": (8, "c = Unsqueeze (a, three)\nb = Squeeze (c, three)"),
    "identity": (8, "b = Identity (a)"),
}  # fmt: skip
ON_THE_HOST = {
    "a Slice that runs backwards": (8, "b = Slice (a, last, far, three, last)"),
    "padding that cuts": (8, "b = Pad (a, cuts)"),
    "only constant padding is a fill": (9, "b = Pad <mode = 'edge'> (a, pads)"),
    "only nearest with whole factors repeats": (8, "b = Resize <mode = 'nearest'> (a, , half)"),
    "nearest picks other than whole repetitions": (
        8,
        "b = Resize <coordinate_transformation_mode = 'align_corners', nearest_mode = 'ceil'> (a, , twice)",
    ),
    "where its elements go is computed by the graph": (
        8,
        "s = Shape (x)\nn = Gather (s, first)\nt = Concat <axis = 0> (n, rest)\n"
        "c = GlobalAveragePool (a)\nb = Expand (c, t)",
    ),
}  # fmt: skip


def read(channels: int, move: str) -> ModelProto:
    """The network around a move; tables of indices have no notation."""
    model = parse_model(network(channels, move))
    for t in model.graph.initializer:
        if t.name in ("table", "rising"):
            t.CopyFrom(numpy_helper.from_array(np.array([[3, 1] if t.name == "table" else [1, 3]]), t.name))
    return model


def network(channels: int, move: str) -> str:
    move = move.replace("'", '"').replace("Flat (d)", "Reshape (d, back)")
    constants = LISTS.replace("\n", " ") + ", int64[4] back = {0, 8, 4, 6}"
    return NETWORK.format(c=channels, move=move, constants=constants)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ON_THE_MACHINE)
def test_moves_on_the_machine(name: str, tmp_path: Path) -> None:
    model = read(*ON_THE_MACHINE[name])
    made = compiled(model, [random_feeds(model, seed=i) for i in range(2)], "reference", tmp_path)
    assert not made.report["host"]
    assert check(made, "reference", random_feeds(model, seed=9))


@pytest.mark.sweep
@pytest.mark.parametrize("reason", ON_THE_HOST)
def test_moves_on_the_host(reason: str, tmp_path: Path) -> None:
    model = read(*ON_THE_HOST[reason])
    made = compiled(model, [random_feeds(model, seed=i) for i in range(2)], "reference", tmp_path)
    assert reason in [h["reason"] for h in made.report["host"]]
    assert check(made, "reference", random_feeds(model, seed=9))


def test_what_strides_can_say_moves_no_byte(tmp_path: Path) -> None:
    moves = "c = Transpose <perm = [0, 1, 3, 2]> (a)\nd = Slice (c, one, last, three, two)\nb = Unsqueeze (d, three)\n"
    moves = moves.replace("b = Unsq", "e = Unsq") + "b = Squeeze (e, three)"
    model = parse_model(network(8, moves))
    program = program_of(
        compiled(model, [random_feeds(model, seed=i) for i in range(2)], "reference", tmp_path)
    )
    assert not any(w.mnemonic == "MOV" for c in program.cores for stream in c.run for w in stream)


RESIZE = """g (float[1,1,{n},2] x) => (float[1,1,h,w] y) <float[4] s = {{1, 1, {f}, 1}}> {{
    y = Resize <mode = "nearest", coordinate_transformation_mode = "{how}", nearest_mode = "{rounding}"> (x, , s) }}"""


@pytest.mark.parametrize("how", ["asymmetric", "align_corners", "half_pixel", "pytorch_half_pixel"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest_is_said_to_repeat_where_the_runtime_does(how: str, rounding: str) -> None:
    for n, f in ((1, 2), (1, 3), (2, 1), (3, 2), (4, 3), (5, 4)):
        model = parse_model(RESIZE.format(n=n, f=f, how=how, rounding=rounding), check=False)
        x = np.arange(2 * n, dtype=np.float32).reshape(1, 1, n, 2)
        found = run_model(model, {"x": x})["y"]
        (node,) = LpGraph.from_proto(model).nodes()
        repeats = bool(np.array_equal(found, np.repeat(x, f, 2)))
        try:
            said = nearest_factors(node, x.shape, found.shape) == [1, 1, f, 1]
        except ValueError:
            said = False
        assert said <= repeats, (n, f)
        assert said == repeats or how == "align_corners", (n, f)  # there a float may round the other way
