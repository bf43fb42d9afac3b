"""What the documents say can be typed, can be typed, and prints what they say."""

import re
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT, RUNNABLE, Block, blocks, in_checkout, pages, read
from tests.documents.running import Reader, must_agree

SHOWN = ("text", "diff", "toml", "json", "bibtex")


def quick(page: str) -> list[Block]:
    return [block for block in blocks(page) if not block.slow]


def runs(found: list[Block]) -> bool:
    return any(block.acts for block in found)


QUICK = [page for page in pages() if runs(quick(page))]
SLOW = [page for page in pages() if runs([block for block in blocks(page) if block.slow])]


@pytest.mark.sweep
@pytest.mark.parametrize("page", QUICK)
def test_quick_blocks_run_and_print_what_is_recorded(page: str, tmp_path: Path) -> None:
    Reader.begin(tmp_path, checkout=in_checkout(read(page))).read(quick(page), must_agree)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_all_blocks_run_and_print_what_is_recorded(page: str, tmp_path: Path) -> None:
    Reader.begin(tmp_path, checkout=in_checkout(read(page))).read(blocks(page), must_agree)


@pytest.mark.parametrize("page", pages())
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        assert block.language in (*RUNNABLE, *SHOWN), block.place
        assert block.acts or block.notes.get("not run") or block.language == "text", block.place
        assert "output" not in block.notes or block.text.replace("...", "").strip(), (
            f"{block.place}: says nothing"
        )


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(page)):
        assert target.startswith("https://") or (path.parent / target).exists(), target
