"""Speed of recipe int8 against ONNX Runtime's own int8 and against float."""

from pathlib import Path

from tests.bench.bench_table import Bench, Table
from tests.bench.peers import ort_int8
from tests.bench.timing import time_ratios
from tests.zoo.entries import session

QUICK = ("tiny_dscnn_kws", "resnet20_cifar10")
ROUNDS = 41


def measure(bench: Bench) -> Table:
    """Median ratios, one call of one sample."""
    zoo = bench.zoo
    assert zoo is not None
    header = ("entry", "int8 ms", "int8 / ort int8", "int8 / float", "ort int8 / float", "verdict")
    made = Table("speed of int8, one thread, batch 1, interleaved (below 1: faster)", header)
    for name in bench.names(bench.all_names, QUICK):
        models: dict[str, bytes | Path] = {"int8": bench.model(name, recipe="int8"), "float": zoo.model(name)}
        try:
            peer = ort_int8(zoo, name)
            session(peer)
            models["ort"] = peer
        except Exception as error:  # its failure is a result
            made.notes.append(
                f"{name}: quantize_static fails or its result does not load: {type(error).__name__}"
            )
        found = time_ratios(models, zoo.one_call(name), 9 if bench.quick else ROUNDS)
        ort, as_float = found.get("ort"), found["float"]
        ratios = (None if ort is None else 1 / ort, 1 / as_float, None if ort is None else ort / as_float)
        slow = [*["than ort"] * (ort is not None and 1 / ort > 1.03), *["than float"] * (1 / as_float > 1.03)]
        shown = tuple(None if r is None else round(r, 3) for r in ratios)
        made.rows.append((name, round(found[""], 3), *shown, f"slower {', '.join(slow)}" if slow else "ok"))
    return made
