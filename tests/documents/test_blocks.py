"""How pages are read, and that a page that is wrong fails."""

from pathlib import Path

import pytest

from tests.documents import blocks as module
from tests.documents import running
from tests.documents.blocks import Block, blocks
from tests.documents.running import Reader, must_agree


def block(language: str, text: str, **notes: str) -> Block:
    return Block("page.md", 1, language, text, notes)


def test_comments_belong_to_the_next_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "<!-- file: a.toml -->\n```toml\nx = 1\n```\n\n"
    page += "<!-- exit: 3 -->\n<!-- slow -->\n```bash\nlpcompile\n```\n```text\nb\n```\n"
    (tmp_path / "page.md").write_text(page, "utf-8")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    file, command, shown = blocks("page.md")
    assert (file.notes, file.text, file.line, file.slow) == ({"file": "a.toml"}, "x = 1\n", 2, False)
    assert (command.notes, command.slow, command.acts) == ({"exit": "3", "slow": ""}, True, True)
    assert (shown.notes, shown.slow, shown.acts) == ({}, False, False)


@pytest.mark.parametrize("page", ["<!-- outptu -->\n```text\na\n```\n", "```bash\nlpcompile\n"])
def test_a_misspelt_comment_or_an_open_fence_is_an_error(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.md").write_text(page, "utf-8")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"page\.md:"):
        blocks("page.md")


@pytest.mark.parametrize(
    ("other_kind", "said"),
    [(False, "recorded: int5"), (True, r"recorded: \(row\)\nprinted: \(row\) \| bits")],
)
def test_an_exit_code_and_an_output_that_differ_are_failures(
    other_kind: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_of_another_kind", lambda: other_kind)
    reader = Reader(tmp_path)
    with pytest.raises(AssertionError, match="ended with 3"):
        reader.read([block("bash", "lpcompile formats int99\n")], must_agree)
    wrong = [block("bash", "lpcompile formats int4\n"), block("text", "int5\n", output="")]
    with pytest.raises(AssertionError, match=said):
        reader.read(wrong, must_agree)


def test_an_edit_must_find_its_lines_once(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 2\n", "utf-8")
    edit = {"edit": "a.py"}
    Reader(tmp_path).read([block("diff", " x = 1\n-y = 2\n+y = 3\n", **edit)], must_agree)
    assert (tmp_path / "a.py").read_text("utf-8") == "x = 1\ny = 3\n"
    with pytest.raises(AssertionError, match="stand 0 times"):
        Reader(tmp_path).read([block("diff", "-y = 2\n+y = 3\n", **edit)], must_agree)


def test_programs_of_a_page_know_each_others_names(tmp_path: Path) -> None:
    said: list[str] = []
    program = [block("python", "a = 2\n"), block("python", "print(a + 1)\n"), block("text", "3\n", output="")]
    Reader(tmp_path).read(program, lambda _block, printed: said.append(printed))
    assert said == ["3\n"]
