"""What figures were made on: processor, system, versions."""

import platform
from pathlib import Path

from lpcompile.report.document import versions


def about_this() -> dict[str, str]:
    """Processor, system and versions by name."""
    return {"cpu": cpu_name(), "platform": platform.platform(), **versions()}


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
