"""Whether the simulated program and ONNX Runtime give the same integers: networks, weight formats, activations."""

from lpcompile.errors import LpcompileError
from tests.bench.bench_table import Bench, Table
from tests.zoo.cim_networks import calls, with_formats

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
                    network = with_formats(zoo, name, weights, activations, CALIBRATION)
                except LpcompileError as error:
                    made.rows.append((*what, 0, "refused", None, None, None, None))
                    made.notes.append(f"{' '.join(what)}: {error.message}")
                    continue
                difference = network.largest_difference(calls(zoo, name, samples))
                report = network.made.report
                same += difference == 0
                checked = report["verification"]
                tiles = (checked["lossless_tiles"], checked["tiles"], len(report["host"]))
                made.rows.append((*what, samples, "no" if difference else "yes", difference, *tiles))
    made.notes.append(
        f"{same} of {len(made.rows)} identical; limit: all of those whose tiles are all lossless"
    )
    return made
