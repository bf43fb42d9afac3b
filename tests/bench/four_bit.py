"""Every 4-bit format against int8: the graph that ONNX Runtime runs, time, file size."""

from pathlib import Path

import onnx
import onnxruntime as ort

from tests.bench.bench_table import Bench, Table, scratch
from tests.bench.timing import time_ratios

FORMATS = ("fixp4", "posit4", "nf4", "pot4", "float4_e2m1fn")
ENTRIES = ("resnet20_cifar10", "mobilenetv2_imagenet", "char_gpt_shakespeare")
GROUPS = {"channel": 0, "group32": 32}
ROUNDS = 31


def measure(bench: Bench) -> Table:
    """One row a format and granularity."""
    zoo = bench.zoo
    assert zoo is not None
    header = ("entry", "format", "scales", "same nodes", "time / int8", "file / int8", "bits", "sqnr_db")
    made = Table("4-bit formats against int8 of the same recipe", header)
    for name in bench.names(ENTRIES, ENTRIES[:1]):
        int8 = bench.model(name, recipe="w4a8", weight_format="int8")
        wanted = optimised(int8)
        for fmt in FORMATS[:2] if bench.quick else FORMATS:
            for scales, size in GROUPS.items():
                options = {"recipe": "w4a8", "weight_format": fmt, "group_size": size}
                model, report = bench.model(name, **options), bench.compiled(name, **options).report
                found = time_ratios(
                    {"int8": int8, "this": model}, zoo.one_call(name), 9 if bench.quick else ROUNDS
                )
                sqnr = zoo.sqnr_db(name, model, 16)
                row = (name, fmt, scales, optimised(model) == wanted, round(found["this"], 3))
                bits = report["totals"]["bits_per_weight"]
                made.rows.append((*row, round(len(model) / len(int8), 3), round(bits, 2), round(sqnr, 2)))
    made.notes.append(
        "same nodes: operators, domains, attributes and input shapes after ONNX Runtime's optimiser"
    )
    return made


def optimised(model: bytes) -> list[tuple[object, ...]]:
    """The nodes of the graph that ONNX Runtime makes of a model, without names and values."""
    path = scratch() / "optimised.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(path).graph
    Path(path).unlink()
    constants = {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}
    return [
        (
            n.op_type,
            n.domain,
            tuple(constants.get(name, bool(name)) for name in n.input),
            tuple(
                sorted(str(onnx.helper.get_attribute_value(a)) for a in n.attribute if not a.HasField("g"))
            ),
        )
        for n in graph.node
    ]
