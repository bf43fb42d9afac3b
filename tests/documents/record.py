"""Write what is printed now into the recorded outputs of pages: `python -m tests.documents.record [docs/tutorial.md]`.

Without a name all pages are done.  An output that agrees is left as it is.  In others a word that was `...` stays so,
and seconds in tables become so.  Read the difference before committing it: the sentences around may have to follow.
"""

import re
import sys
import tempfile
from pathlib import Path

from tests.documents.blocks import ROOT, Block, blocks, in_checkout, pages, read
from tests.documents.matching import difference
from tests.documents.running import Reader


def record(page: str) -> int:
    """Run a page and rewrite the outputs that differ; the number of these."""
    changed: list[tuple[Block, str]] = []

    def met(block: Block, printed: str) -> None:
        if difference(block.text, printed) is not None:
            changed.append((block, elided(block.text, printed)))

    with tempfile.TemporaryDirectory() as folder:
        Reader.begin(Path(folder), checkout=in_checkout(read(page))).read(blocks(page), met)
    lines = read(page).splitlines(keepends=True)
    for block, text in reversed(changed):
        lines[block.line : block.line + block.text.count("\n")] = [text]
    (ROOT / page).write_text("".join(lines), "utf-8")
    return len(changed)


def elided(recorded: str, printed: str) -> str:
    """What is printed, without blanks at the ends of lines, with `...` where the line of that number had it."""
    old, found = recorded.splitlines(), []
    for number, line in enumerate(printed.strip("\n").splitlines()):
        before = old[number].split() if number < len(old) else []
        words = list(re.finditer(r"\S+", line))
        if "..." in before[1:] and len(before) == len(words):
            for was, word in reversed(list(zip(before, words, strict=True))):
                line = f"{line[: word.start()]}...{line[word.end() :]}" if was == "..." else line
        found.append(line.rstrip())
    return "".join(f"{line}\n" for line in without_seconds(found))


def without_seconds(lines: list[str]) -> list[str]:
    """Lines with `...` for what stands below the word `seconds` of a table."""
    found, column = [], -1
    for line in lines:
        cell = re.match(r"\d+(\.\d+)?(?= |$)", line[column:]) if column >= 0 else None
        if cell is not None:
            line = f"{line[:column]}...{line[column + cell.end() :]}"
        column = line.index("seconds") if "seconds" in line.split() else column
        found.append(line)
    return found


def main(names: list[str]) -> int:
    """Record pages, all that have recorded outputs where none is named; 1 where one could not be done."""
    failed = 0
    for name in names or [p for p in pages() if any("output" in block.notes for block in blocks(p))]:
        try:
            print(f"{name}: {record(name)} outputs changed", flush=True)
        except AssertionError as error:
            failed = 1
            print(f"{name}: cannot be done: {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
