"""Code blocks of a page, with what the comment before each says of it.

A comment stands alone on the line above the fence: `<!-- output -->`, `<!-- file: mine.toml -->`.  Readers of the site
do not see it.

| comment | the block |
|---|---|
| none | `bash`, `python`: is run; `text`, `mermaid`: is shown only |
| `output` | what the block before it prints, see `matching` |
| `file: NAME` | is written to NAME |
| `edit: NAME` | a `diff` whose old lines stand once in NAME, and are replaced |
| `exit: CODE` | its last command ends with CODE |
| `slow` | is run in the slow tests only, and its output compared there; what needs it is slow, too |
| `not run: REASON` | is shown only |
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNNABLE = ("bash", "python")
WORDS = ("output", "file", "edit", "exit", "slow", "not run")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)[ ]*$")
_COMMENT = re.compile(r"^ *<!-- (?P<word>[a-z ]+?)(?:: (?P<value>.+?))? -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: path of the page below the root.
        line: number of the line with the opening fence, from 1.
        language: the word after the fence.
        text: what stands between the fences.
        notes: words of the comments before it, with their values.
    """

    page: str
    line: int
    language: str
    text: str
    notes: dict[str, str]

    @property
    def slow(self) -> bool:
        """Whether the quick tests leave it out."""
        return "slow" in self.notes

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"

    @property
    def acts(self) -> bool:
        """Whether anything is done with it."""
        if "not run" in self.notes:
            return False
        return self.language in RUNNABLE or bool({"output", "file", "edit"} & set(self.notes))


def pages() -> list[str]:
    """The pages that are held to what they say, as paths below the root."""
    inside = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", "CONTRIBUTING.md", "models/README.md", *inside]


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text("utf-8")


def in_checkout(text: str) -> bool:
    """Whether a page works on the source itself: it gets a copy of the checkout."""
    return "<!-- checkout -->" in text.splitlines()


def blocks(page: str) -> list[Block]:
    """Its blocks in order.

    Raises:
        ValueError: a comment before a block has no known word, or a fence is not closed.
    """
    found: list[Block] = []
    notes: dict[str, str] = {}
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(read(page).splitlines(), 1):
        fence, comment = _FENCE.match(line), _COMMENT.match(line)
        if opened is not None:
            start, language, indent = opened
            if fence and not fence["language"]:
                if "output" in notes and found and found[-1].slow:
                    notes = notes | {"slow": ""}
                text = "".join(f"{body.removeprefix(indent)}\n" for body in lines)
                found.append(Block(page, start, language, text, notes))
                opened, notes = None, {}
            else:
                lines.append(line)
        elif fence:
            unknown = set(notes) - set(WORDS)
            if unknown:
                raise ValueError(f"{page}:{number}: no comment is called {sorted(unknown)}")
            opened, lines = (number, fence["language"], fence["indent"]), []
        elif comment:
            notes = notes | {comment["word"]: comment["value"] or ""}
        elif line.strip():
            notes = {}
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: the fence is not closed")
    return found
