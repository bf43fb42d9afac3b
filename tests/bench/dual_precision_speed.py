"""What layers of `dual-precision` cost on a CPU in each form, beside floats and int8, and what they score."""

import numpy as np

from tests.bench.bench_table import Bench, Table
from tests.bench.side_path_speed import interleaved
from tests.zoo.entries import session

ENTRIES = (
    "char_gpt_shakespeare",
    "minilm_stsb",
    "tiny_resnet8_cifar10",
    "tiny_dscnn_kws",
    "mobilenetv2_imagenet",
)
PASSES = "widen-float16, fold-constants, canonicalize, fold-batchnorm, dual-precision, run-on-integers"
CASES = {
    "int8": {"recipe": "int8"},
    "FP8 in floats": {"recipe": "dpq"},
    "--emit integer": {"recipe": "dpq", "emit": "integer"},
    "packed": {"passes": f"{PASSES}{{matrices=packed, least-db=0}}"},
}


def measure(bench: Bench) -> Table:
    """One row an entry and form."""
    assert bench.zoo is not None
    made = Table(
        "dual precision: score, output SQNR, processor time of a call, one thread, interleaved calls",
        ("entry", "form", "metric", "score", "sqnr_db", "file KiB", "ms", "over float", "over int8"),
    )
    for entry in bench.names(ENTRIES, ENTRIES[:1]):
        models = {name: bench.model(entry, **case) for name, case in CASES.items()}
        source = bench.zoo.model(entry)
        sessions = {"float": session(source, 1)} | {k: session(m, 1) for k, m in models.items()}
        times = interleaved(sessions, bench.zoo.one_call(entry))
        limit = 100 if bench.quick else None
        for name, found in times.items():
            model = models.get(name, source)
            made.rows.append(
                (
                    entry,
                    name,
                    bench.zoo.entries[entry]["metric"],
                    round(bench.zoo.score(entry, model, limit), 4),
                    None if name == "float" else round(bench.zoo.sqnr_db(entry, model), 2),
                    round((len(model) if isinstance(model, bytes) else source.stat().st_size) / 1024),
                    round(1e3 * float(np.median(found)), 3),
                    round(float(np.median(found / times["float"])), 3),
                    round(float(np.median(found / times["int8"])), 3),
                )
            )
    made.notes.append("ratios are of calls that followed one another")
    return made
