"""Two runs and a replay, each in a fresh process with another hash seed."""

import filecmp
import os
import subprocess
import sys

import numpy as np

from tests.bench.bench_table import Bench, Table, scratch

ENTRIES = ("tiny_dscnn_kws", "resnet20_cifar10", "char_gpt_shakespeare", "silero_vad_op18")
RECIPES = ("int8", "w4a8", "w4a4")


def measure(bench: Bench) -> Table:
    """Whether the files are byte-identical."""
    zoo = bench.zoo
    assert zoo is not None
    made = Table("determinism: byte-identical files", ("entry", "recipe", "second run", "replay"))
    for name in bench.names(ENTRIES, ENTRIES[:1]):
        data = scratch() / f"{name}.npz"
        np.savez(data, **zoo.samples(name))  # type: ignore[arg-type]
        for recipe in RECIPES[:1] if bench.quick else RECIPES:
            first, second, replay = (scratch() / f"{name}-{recipe}-{i}" for i in range(3))
            words = [
                str(zoo.model(name)),
                "-t",
                "ort",
                "--calibration-data",
                str(data),
                "--recipe",
                recipe,
                "-q",
            ]
            _run([*words, "-o", str(first)], "1")
            _run([*words, "-o", str(second)], "2")
            _run([*words, "-o", str(replay), "--decisions", str(first / "decisions.toml")], "3")
            same = [
                all(
                    filecmp.cmp(first / f, other / f, shallow=False) for f in ("model.onnx", "decisions.toml")
                )
                for other in (second, replay)
            ]
            made.rows.append((name, recipe, *same))
    return made


def _run(words: list[str], hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-m", "lpcompile", *words], env=environment, check=True)
