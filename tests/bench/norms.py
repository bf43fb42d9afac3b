"""Networks whose norms cannot be folded, against ONNX Runtime's own static int8: how much faster, and the bound."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

import lpcompile
from lpcompile.quant.error import sqnr_db
from tests.bench.bench_table import Bench, Table, scratch
from tests.bench.peers import static_int8
from tests.bench.timing import time_ratios
from tests.support import parse_model, random_feeds, run_model
from tests.zoo.entries import Feeds

BLOCKS, SIZE, ROUNDS = 4, 32, 61
QUICK_ROUNDS = 15
NETWORKS = {  # name: channels, what a block adds (0: sums)
    "pre-activation, 64 channels": (64, 0),
    "pre-activation, 16 channels": (16, 0),
    "dense, 64 channels and 32 a block": (64, 32),
    "dense, 24 channels and 12 a block": (24, 12),
}


def network(channels: int, growth: int, *, norms: bool = True) -> onnx.ModelProto:
    """Blocks of norm, Relu and Conv twice, around which the stream runs on; weights are random."""
    nodes, constants, width, x = [], [f"float[{channels},3,3,3] w", f"float[{channels}] b"], channels, "a"

    def active(source: str, name: str, size: int) -> str:
        if norms:
            four = [name + role for role in ("scale", "b", "m", "var")]
            constants.extend(f"float[{size}] {c}" for c in four)
            nodes.append(f"{name} = BatchNormalization ({source}, {', '.join(four)})")
            source = name
        nodes.append(f"{name}r = Relu ({source})")
        return f"{name}r"

    for i in range(BLOCKS):
        inner, kernel = (channels, 3) if not growth else (4 * growth, 1)
        out = growth or channels
        constants += [f"float[{inner},{width},{kernel},{kernel}] w{i}", f"float[{out},{inner},3,3] z{i}"]
        pad = kernel // 2
        nodes.append(f"c{i} = Conv <pads = [{pad},{pad},{pad},{pad}]> ({active(x, f'n{i}', width)}, w{i})")
        nodes.append(f"d{i} = Conv <pads = [1,1,1,1]> ({active(f'c{i}', f'k{i}', inner)}, z{i})")
        nodes.append(f"x{i} = Concat <axis = 1> ({x}, d{i})" if growth else f"x{i} = Add ({x}, d{i})")
        x, width = f"x{i}", width + growth
    last = active(x, "l", width)
    constants += [f"float[{width},10] wl", "float[10] bl"]
    body = "\n".join(["a = Conv <pads = [1,1,1,1]> (x, w, b)", *nodes, f"p = GlobalAveragePool ({last})"])
    return parse_model(
        f"m (float[1,3,{SIZE},{SIZE}] x) => (float[1,10] y) <{', '.join(constants)}> "
        f"{{ {body} f = Flatten (p) y = Gemm (f, wl, bl) }}"
    )


def measure(bench: Bench) -> Table:
    """Median ratios, one thread; SQNR of the outputs."""
    header = ("network", "int8 ms", "static / int8", "static / without norms", "int8 dB", "static dB")
    made = Table("norms that no layer takes in, against quantize_static", header)
    for name, (channels, growth) in NETWORKS.items():
        model, bare = (network(channels, growth, norms=n) for n in (True, False))
        calls = [random_feeds(model, seed=i) for i in range(24)]
        ours, bound = (lpcompile.compile(m, calibration=calls, recipe="int8").model for m in (model, bare))
        file = scratch() / f"norms-{channels}-{growth}.onnx"
        onnx.save(model, file)
        peer = static_int8(file, file.with_suffix(".int8.onnx"), _each(calls))
        models: dict[str, bytes | Path] = {
            "int8": ours.SerializeToString(),
            "static": peer,
            "bare": bound.SerializeToString(),
        }
        ratios = time_ratios(models, calls[0], QUICK_ROUNDS if bench.quick else ROUNDS)
        feeds = random_feeds(model, seed=99)
        wanted = run_model(model, feeds)["y"]
        quality = [sqnr_db(wanted, run_model(m, feeds)["y"]) for m in (ours, onnx.load(peer))]
        speed = (ratios["static"], ratios["static"] / ratios["bare"])
        made.rows.append((name, round(ratios[""], 3), *(round(float(v), 2) for v in (*speed, *quality))))
    return made


def _each(calls: list[Feeds]) -> Iterator[Feeds]:
    return iter([{k: np.asarray(v) for k, v in c.items()} for c in calls])
