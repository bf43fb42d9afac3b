"""Trained networks as programs: simulated bit by bit they equal ONNX Runtime, and their energy adds up."""

import math

import pytest

from lpcompile.simulation import price_run
from tests.zoo.cim_networks import Network, calls, from_zoo, with_formats
from tests.zoo.entries import Zoo, find_zoo

ZOO = find_zoo()
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(ZOO is None, reason="LPCOMPILE_ZOO names no folder with a zoo.json"),
]
CALIBRATION, SAMPLES = 8, 2
ENTRIES = (
    "tiny_resnet8_cifar10",
    "tiny_dscnn_kws",
    "tiny_autoencoder_toycar",
    "squeezenet_imagenet",
    "mobilenetv2_imagenet",
    "resnet20_cifar10",
    "mnist_cnn",
    "fastestdet_coco",
    "superres_x3",
)


@pytest.fixture
def zoo() -> Zoo:
    assert ZOO is not None
    return ZOO


def exact(zoo: Zoo, network: Network) -> None:
    checked = network.made.report["verification"]
    assert checked["proofs"]["hold"]
    assert checked["lossless_tiles"] == checked["tiles"] > 0
    assert network.largest_difference(calls(zoo, network.name, SAMPLES)) == 0


@pytest.mark.parametrize(
    ("name", "weights", "activations"),
    [
        ("resnet20_cifar10", "fixp4", "uint4"),
        ("tiny_dscnn_kws", "posit4", "uint8"),
        ("tiny_autoencoder_toycar", "nf4", "uint8"),
    ],
)
def test_the_program_gives_the_integers_of_the_graph(
    zoo: Zoo, name: str, weights: str, activations: str
) -> None:
    exact(zoo, with_formats(zoo, name, weights, activations, CALIBRATION))


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["uint8", "uint4"])
@pytest.mark.parametrize("weights", ["int8", "fixp4", "posit4", "nf4", "pot4"])
@pytest.mark.parametrize("name", ENTRIES)
def test_every_format_on_every_entry(zoo: Zoo, name: str, weights: str, activations: str) -> None:
    exact(zoo, with_formats(zoo, name, weights, activations, CALIBRATION))


@pytest.mark.parametrize(
    "name", ["tiny_dscnn_kws", pytest.param("squeezenet_imagenet", marks=pytest.mark.slow)]
)
def test_energy_adds_up_and_densities_of_other_samples_predict_it(zoo: Zoo, name: str) -> None:
    network = from_zoo(zoo, name, CALIBRATION)
    (known,), (held_back,) = (calls(zoo, name, SAMPLES, split) for split in ("calib", "eval"))
    counted = price_run(network.program, held_back)
    exact, samples = counted.energy, counted.energy.conventions["batch"]
    total = exact.totals.energy_pj
    assert samples == SAMPLES
    assert math.fsum(exact.components.values()) == pytest.approx(total, rel=1e-9)
    assert math.fsum(map(exact.layer_pj, exact.by_layer)) == pytest.approx(total, rel=1e-9)
    densities = price_run(network.program, known).densities
    stat = price_run(network.program, held_back, densities=densities).energy
    assert stat.totals.energy_pj == pytest.approx(total, rel=0.05)
    assert stat.totals.mac_only_pj == pytest.approx(exact.totals.mac_only_pj, rel=0.05)
