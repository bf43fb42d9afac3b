"""Recording writes what is printed and keeps what was left out."""

from pathlib import Path

import pytest

from tests.documents import blocks, record
from tests.documents.record import elided


def test_what_was_left_out_stays_so_and_seconds_are_left_out() -> None:
    recorded = "step  dB   seconds\na     1.0  ...\ntook ... s\n"
    printed = "step  dB   seconds\na     2.0  13.1  again\nb     3.0\n\n"
    assert elided(recorded, printed) == "step  dB   seconds\na     2.0  ...  again\nb     3.0\n"
    assert elided("step 1 ...\n", "step 30.24 0.2\n") == "step 30.24 ...\n", "not the same digits elsewhere"
    assert elided(recorded, "x\ny\ntook 12 s\n") == "x\ny\ntook ... s\n"


def test_an_output_that_agrees_stays_and_another_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "```python\nprint(1.5)\n```\n<!-- output -->\n```text\n1.51\n```\n"
    page += "```python\nprint('new')\n```\n<!-- output -->\n```text\nold\nlines\n```\nEnd.\n"
    (tmp_path / "page.md").write_text(page, "utf-8")
    (tmp_path / "models").mkdir()
    for module in (blocks, record):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr("tests.documents.running.ROOT", tmp_path)
    assert record.main(["page.md"]) == 0
    assert (tmp_path / "page.md").read_text("utf-8") == page.replace("old\nlines", "new")
