"""Trained networks as integer reference graphs: exact everywhere, as accurate as int8, the host only at the ends."""

from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile.runtime.layer_check import check_layers
from tests.zoo.entries import Zoo, find_zoo

ZOO = find_zoo()
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(ZOO is None, reason="LPCOMPILE_ZOO names no folder with a zoo.json"),
]
LABELLED = ("tiny_resnet8_cifar10", "tiny_dscnn_kws", "resnet20_cifar10", "mnist_cnn")
OTHERS = ("tiny_autoencoder_toycar", "fastestdet_coco", "superres_x3")
LARGE = ("squeezenet_imagenet", "mobilenetv2_imagenet")
HOST = {"QuantizeLinear", "DequantizeLinear", "Add", "Softmax", "Sigmoid"}  # Add: biases of the last layers


@pytest.fixture
def zoo() -> Zoo:
    assert ZOO is not None
    return ZOO


def compiled(zoo: Zoo, name: str, target: str, recipe: str = "int8", **options: Any) -> lpcompile.Artefacts:
    samples = zoo.samples(name, limit=48)
    shapes = {k: (1, *v.shape[1:]) for k, v in samples.items()} if name == "superres_x3" else {}
    return lpcompile.compile(
        zoo.model(name), target=target, calibration=samples, recipe=recipe, input_shapes=shapes, **options
    )


def float_computing(made: lpcompile.Artefacts) -> set[str]:
    """Operators outside `lpcompile` that compute, where moves stand between host nodes or hold codes."""
    moves = (
        "Concat",
        "DepthToSpace",
        "Flatten",
        "Gather",
        "MaxPool",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "Transpose",
    )
    return {n.op_type for n in made.model.graph.node if not n.domain} - set(moves)


@pytest.mark.parametrize(
    "name", [*LABELLED, *OTHERS, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)]
)
def test_every_number_of_every_call_is_the_integer(zoo: Zoo, name: str) -> None:
    made = compiled(zoo, name, "cim")
    assert all(r["weight_format"] == "int8" for r in made.report["layers"])
    assert float_computing(made) <= HOST
    checks = check_layers(made.model, zoo.one_call(name), positions=10**9)
    assert len(checks) >= len(made.report["layers"])
    assert sum(c.different for c in checks) == 0


@pytest.mark.parametrize("name", [*LABELLED, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_as_accurate_as_the_int8_graph(zoo: Zoo, name: str) -> None:
    ours, theirs = (bytes(compiled(zoo, name, t).model.SerializeToString()) for t in ("cim", "ort"))
    a, b = (zoo.paired(name, m) for m in (ours, theirs))
    assert a.drop - b.drop - a.standard_error <= 0.005
    assert zoo.sqnr_db(name, ours, 32) >= zoo.sqnr_db(name, theirs, 32) - 3.0


@pytest.mark.parametrize("name", ["tiny_autoencoder_toycar", "resnet20_cifar10"])
def test_generated_ranges_serve_where_there_are_batch_norms(zoo: Zoo, name: str) -> None:
    made = lpcompile.compile(zoo.model(name), target="cim", recipe="int8")
    assert zoo.sqnr_db(name, bytes(made.model.SerializeToString()), 32) >= 15


def test_a_batch_gives_what_its_samples_give(zoo: Zoo) -> None:
    made = compiled(zoo, "tiny_dscnn_kws", "cim")
    feeds = zoo.one_call("tiny_dscnn_kws", 4)
    whole = made.run(feeds)
    alone = [made.run({k: v[i : i + 1] for k, v in feeds.items()}) for i in range(4)]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([a[name] for a in alone]))
