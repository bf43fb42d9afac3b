"""The site builds without a warning, and no page of it loads anything from a network."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT

LOADS = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:)?//|<link[^>]*\shref=["']?(https?:)?//"""
)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the extra 'docs'")
def test_the_site_builds_and_loads_nothing_from_a_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 50
    assert [page.name for page in pages if LOADS.search(page.read_text("utf-8"))] == []
    styles = [path.read_text("utf-8") for path in tmp_path.rglob("*.css")]
    assert styles
    assert not any(re.search(r"@import|url\(['\"]?(https?:)?//", text) for text in styles)
