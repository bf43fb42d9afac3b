"""How long a user waits for --help and for the import."""

import sys

from tests.bench.bench_table import Bench, Table
from tests.bench.timing import command_seconds

COMMANDS = {
    "python": ["-c", "pass"],
    "import click": ["-c", "import click"],
    "lpcompile --help": ["-m", "lpcompile", "--help"],
    "import lpcompile": ["-c", "import lpcompile"],
    "import lpcompile.api": ["-c", "import lpcompile.api"],
    "import onnx, onnxruntime": ["-c", "import onnx, onnxruntime"],
}
BARS = {"lpcompile --help": 0.15, "import lpcompile": 0.25}


def measure(bench: Bench) -> Table:
    """Medians over fresh processes."""
    made = Table("start-up, fresh processes", ("command", "seconds", "above python", "bar"))
    seconds = {
        k: command_seconds([sys.executable, *w], 3 if bench.quick else 15) for k, w in COMMANDS.items()
    }
    for name, s in seconds.items():
        made.rows.append((name, round(s, 3), round(s - seconds["python"], 3), BARS.get(name)))
    return made
