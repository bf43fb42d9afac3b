"""Whether the simulated program and ONNX Runtime give the same integers: networks, weight formats, activations."""

import numpy as np

from lpcompile.errors import LpcompileError
from tests.bench.bench_table import Bench, Table
from tests.bench.cim_networks import Network, calls, from_zoo
from tests.zoo.entries import Zoo

ENTRIES = (
    "tiny_resnet8_cifar10", "tiny_dscnn_kws", "tiny_autoencoder_toycar", "squeezenet_imagenet",
    "mobilenetv2_imagenet", "resnet20_cifar10", "mnist_cnn", "fastestdet_coco", "superres_x3",
)  # fmt: skip
QUICK = ("tiny_dscnn_kws", "tiny_autoencoder_toycar")
FORMATS = ("int8", "fixp4", "posit4", "nf4", "pot4")
ACTIVATIONS = ("uint8", "uint4")
CALIBRATION, SAMPLES = 8, 8


def measure(bench: Bench) -> Table:
    """One row a network, weight format and activation format."""
    zoo = bench.zoo
    assert zoo is not None
    header = ("entry", "weights", "activations", "samples", "identical", "largest difference", "lossless tiles",
              "tiles", "host nodes")  # fmt: skip
    made = Table("simulated program against ONNX Runtime on model.onnx, all outputs of every sample", header)
    samples, same = 2 if bench.quick else SAMPLES, 0
    for name in bench.names(ENTRIES, QUICK):
        for weights in FORMATS[:2] if bench.quick else FORMATS:
            for activations in ACTIVATIONS:
                what = (name, weights, activations)
                try:
                    network = compiled(zoo, name, weights, activations)
                except LpcompileError as error:
                    made.rows.append((*what, 0, "refused", None, None, None, None))
                    made.notes.append(f"{' '.join(what)}: {error.message}")
                    continue
                difference = largest_difference(zoo, network, samples)
                report = network.made.report
                same += difference == 0
                checked = report["verification"]
                tiles = (checked["lossless_tiles"], checked["tiles"], len(report["host"]))
                made.rows.append((*what, samples, "no" if difference else "yes", difference, *tiles))
    made.notes.append(
        f"{same} of {len(made.rows)} identical; limit: all of those whose tiles are all lossless"
    )
    return made


def compiled(zoo: Zoo, name: str, weights: str, activations: str, **options: object) -> Network:
    """A zoo entry with weights and activations of two formats."""
    recipe = "int8" if weights == "int8" else "w4a8"
    formats = {"weight_format": weights, "activation_format": activations}
    return from_zoo(zoo, name, CALIBRATION, recipe=recipe, **formats, **options)


def largest_difference(zoo: Zoo | None, network: Network, samples: int) -> float:
    """Between outputs of the simulator and of ONNX Runtime, over held-back samples; 0 where all bits agree."""
    simulator, worst = network.simulator(), 0.0
    for feeds in calls(zoo, network.name, samples):
        wanted = network.made.run(feeds)
        found = simulator.run(feeds, network.host).outputs
        assert found.keys() == wanted.keys()
        for output, array in found.items():
            if not np.array_equal(array, wanted[output]):
                apart = np.abs(array.astype(np.float64) - wanted[output])
                worst = max(worst, float(np.nan_to_num(apart, nan=np.inf).max()))
    return worst
