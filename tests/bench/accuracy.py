"""Accuracy of recipe int8 on every zoo entry."""

from tests.bench.bars import AGREEMENT, AIM_AGREEMENT, BEST_W8A8, DROPS, MOST_SAMPLES, TOP1_DROP
from tests.bench.bench_table import Bench, Table

QUICK = ("tiny_dscnn_kws", "resnet20_cifar10")


def measure(bench: Bench) -> Table:
    """Paired drop with its standard error, agreement, and SQNR beside the best 8-bit row of other tools."""
    zoo = bench.zoo
    assert zoo is not None
    header = (
        "entry",
        "metric",
        "float",
        "int8",
        "drop",
        "b",
        "c",
        "error",
        "agree",
        "sqnr_db",
        "best other",
        "verdict",
    )
    made = Table("int8: drop from float (b lost, c won; error: paired standard error)", header)
    for name in bench.names(bench.all_names, QUICK):
        entry = zoo.entries[name]
        model, limit = bench.model(name, recipe="int8"), 100 if bench.quick else None
        sqnr = zoo.sqnr_db(name, model)
        bar = BEST_W8A8.get(name, (None, ""))
        short = ["sqnr"] if bar[0] is not None and sqnr < bar[0] else []
        if entry["metric"] == "top1":
            pair = zoo.paired(name, model, limit)
            was = zoo.score(name, zoo.model(name), limit)
            if pair.samples >= MOST_SAMPLES:
                short += ["drop"] * (pair.drop - pair.standard_error > TOP1_DROP)
                short += ["agreement"] * (pair.agreement <= AGREEMENT.get(name, 0.0))
                short += ["aim"] * (pair.agreement < AIM_AGREEMENT)
            figures: tuple[float | int | None, ...] = (
                was,
                was - pair.drop,
                pair.drop,
                pair.lost,
                pair.won,
                pair.standard_error,
                pair.agreement,
            )
        else:
            was, now = (zoo.score(name, m, limit) for m in (zoo.model(name), model))
            sign = 1 if entry.get("higher_is_better", True) else -1
            drop = now / was - 1 if entry["metric"] == "perplexity" else sign * (was - now)
            short += ["drop"] * (drop > DROPS.get(entry["metric"], float("inf")))
            figures = (was, now, drop, None, None, None, None)
        shown = tuple(round(f, 4) if isinstance(f, float) else f for f in figures)
        made.rows.append(
            (
                name,
                entry["metric"],
                *shown,
                round(sqnr, 2),
                bar[0],
                "short: " + ", ".join(short) if short else "ok",
            )
        )
    made.notes.append("aim: agreement below 0.985; drops of perplexity are relative")
    return made
