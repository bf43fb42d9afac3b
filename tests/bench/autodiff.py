"""A training step of mobilenetv2, forward and the gradients of all weights, against torch, and its memory.

Kept activations are the data of the layers whose weights have gradients and the outputs of their clips.
"""

import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value
from tests.bench.bench_table import Bench, Table, scratch
from tests.zoo.entries import session

ENTRY = "mobilenetv2_1.0_224"
BATCH = 8
BARS = {"time": 3.0, "memory": 1.3}
_CHUNK = 64 << 20


def measure(bench: Bench) -> Table:
    """Time over torch's, and growth of the resident set over the kept activations."""
    assert bench.zoo is not None
    made = Table(
        f"gradients of every weight of {ENTRY}, batch {BATCH}, one thread",
        ("what", "measured", "of", "ratio", "bar"),
    )
    (path,) = [p for p in (bench.zoo.root / "models").glob("*.onnx") if p.stem == ENTRY]
    graph = LpGraph.from_proto(onnx.load(path))
    logits, weights, kept = add_weight_gradients(graph)
    file = scratch() / "gradients.onnx"
    onnx.save(graph.to_proto(), file)
    rng = np.random.default_rng(0)
    x, seed = (np.asarray(rng.normal(size=_static(i)), np.float32) for i in graph.inputs)
    ours = session(file, threads=1)
    names = [o.name for o in ours.get_outputs()][1:]
    feeds = dict(zip((i.name for i in graph.inputs), (x, seed), strict=True))
    runs: dict[str, Callable[[], Any]] = {"lpcompile": lambda: ours.run(names, feeds)}
    if importlib.util.find_spec("torch"):
        import torch

        from tests.bench.torch_network import training_step

        torch.set_num_threads(1)
        step = training_step(onnx.load(path), logits, weights)
        runs["torch"] = lambda: step(x, seed)
        expected = training_step(onnx.load(path), logits, weights, double=True)(x, seed)
        found = dict(zip(weights, ours.run(names, feeds), strict=True))
        apart = [float(np.abs(found[w] - expected[w]).max() / np.abs(expected[w]).max()) for w in weights]
        made.notes.append(
            "difference from torch in float64, over the largest element of each gradient: "
            f"median {np.median(apart):.1e}, most {max(apart):.1e}"
        )
    times = _medians(runs, 3 if bench.quick else 9)
    if "torch" in times:
        made.rows.append(
            ("time (ms, torch ms)", round(times["lpcompile"]), round(times["torch"]),
             round(times["lpcompile"] / times["torch"], 2), BARS["time"])
        )  # fmt: skip
    else:
        made.rows.append(("time (ms)", round(times["lpcompile"]), None, None, BARS["time"]))
        made.notes.append("torch is not installed here: no ratio")
    for name, lean, chunk in (
        ("memory, default session", 0, 0),
        ("memory, nothing kept for reuse", 1, 0),
        ("memory, the same, arena in large pieces", 1, _CHUNK),
    ):
        command = [sys.executable, "-m", "tests.bench.gradient_memory", str(file), str(lean), str(chunk)]
        grown = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        made.rows.append(
            (f"{name} (MB, kept MB)", grown >> 20, kept >> 20, round(grown / kept, 2), BARS["memory"])
        )
    return made


def add_weight_gradients(graph: LpGraph) -> tuple[str, list[str], int]:
    """Gradients of all weights as outputs: the name of the logits, the weights in their order, bytes kept."""
    data = graph.inputs[0]
    graph.infer_shapes({data.name: (BATCH, *(int(d) for d in (data.shape or ())[1:] if isinstance(d, int)))})
    last = graph.outputs[0].producer
    assert last is not None
    logits = last.inputs[0] if last.op == "Softmax" else graph.outputs[0]
    assert logits is not None
    assert logits.shape is not None
    seed = graph.add_input("seed", np.dtype(np.float32), logits.shape)
    weights = [node.inputs[1].name for node in graph.layers() if node.inputs[1] is not None]
    kept = kept_bytes(graph)
    found = add_gradients(graph, {logits.name: seed}, weights)
    for name in weights:
        gradient = found[name]
        assert gradient is not None
        graph.add_output(gradient)
    return logits.name, weights, kept


def kept_bytes(graph: LpGraph) -> int:
    """Bytes of the activations that the gradients of all weights need, each counted once."""
    kept = {node.inputs[0] for node in graph.layers()}
    kept |= {node.outputs[0] for node in graph.nodes("Clip")}
    return sum(4 * int(np.prod(_static(v))) for v in kept if v is not None)


def _static(v: Value) -> tuple[int, ...]:
    return tuple(d for d in v.shape or () if isinstance(d, int))


def _medians(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            times[name].append(1e3 * (time.thread_time() - start))
    return {name: statistics.median(t) for name, t in times.items()}
