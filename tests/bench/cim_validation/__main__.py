"""`python -m tests.bench.cim_validation [FILE]`: print the derived tables, or put them into a page."""

import sys
from pathlib import Path

from tests.bench.cim_validation.page import page, replaced

if __name__ == "__main__":
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        path.write_text(replaced(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(page() + "\n")
