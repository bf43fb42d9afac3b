"""disasm and asm on a small program."""

import json
from pathlib import Path

import pytest

from lpcompile.backends.cim.assembler import disassemble
from lpcompile.backends.cim.container import to_bytes
from tests.backends.cim.program_examples import example_program
from tests.cli.cli_runner import error_lines, lpcompile


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.lpcim"
    path.write_bytes(to_bytes(example_program()))
    return path


def test_disasm_prints_the_text(program: Path) -> None:
    result = lpcompile("disasm", program)
    assert result.exit_code == 0
    assert result.stdout == disassemble(example_program())
    assert lpcompile("disasm", program.parent).stdout == result.stdout
    assert lpcompile("disasm", program, "--full").stdout == disassemble(example_program(), full=True)
    assert lpcompile("disasm", program, "--core", 1).stdout.startswith("core 1 boot\n  HALT\n")


def test_disasm_as_json(program: Path) -> None:
    document = json.loads(lpcompile("disasm", program, "--json").stdout)
    assert document["machine"] == "tiny"
    assert document["tables"]["descriptors"] == 7
    assert document["cores"] == [
        {"core": 0, "boot_words": 3, "run_words": [17]},
        {"core": 1, "boot_words": 1, "run_words": [1]},
    ]
    data = document["weight_bytes"] + document["const_bytes"] + len(b"an onnx model")
    assert document["bytes_without_weights"] == document["file_bytes"] - data
    assert document["text"] == disassemble(example_program())


def test_there_and_back(program: Path, tmp_path: Path) -> None:
    text, again = tmp_path / "p.lpcasm", tmp_path / "again.lpcim"
    assert lpcompile("disasm", program, "-o", text).stdout == f"wrote {text}\n"
    size = program.stat().st_size
    result = lpcompile("asm", text, "-o", again, "--data", program)
    assert result.stdout == f"wrote {again}: {size / 1000:.3g} kB, 2 cores, machine tiny\n"
    assert again.read_bytes() == program.read_bytes()

    assert lpcompile("disasm", program, "--full", "-o", text, "--force").exit_code == 0
    document = json.loads(lpcompile("asm", text, "-o", again, "--force", "--json").stdout)
    assert document["written"] == str(again)
    assert again.read_bytes() == program.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.lpcim", "p.lpcasm", "program.lpcim"]


def test_asm_without_the_data(program: Path, tmp_path: Path) -> None:
    text = tmp_path / "p.lpcasm"
    lpcompile("disasm", program, "-o", text)
    lines = error_lines("asm", text, "-o", tmp_path / "q.lpcim", code=3)
    assert lines[0] == f"error: {text}:6: the bytes of 'weights' are not in the text"
    assert "--data" in lines[1]
    assert not (tmp_path / "q.lpcim").exists()


@pytest.mark.parametrize(
    ("words", "code", "error", "hint"),
    [
        ("disasm progam.lpcim", 3, "progam.lpcim: there is no such file", "program.lpcim'?"),
        ("disasm empty", 3, "empty: the folder holds no program.lpcim", "--target cim"),
        ("disasm other.bin", 3, "other.bin: this is no program", "give a program.lpcim"),
        ("disasm program.lpcim --core 2", 3, "there is no core 2", "cores are 0 to 1"),
        ("disasm program.lpcim --core 1 --full", 2, "--full and --core exclude each other", "disasm --help"),
        ("disasm program.lpcim -o other.bin", 6, "other.bin: the file exists", "--force"),
        ("disasm program.lpcim -o empty --force", 6, "empty: this is a folder", "name a file in it"),
        ("asm other.bin -o x", 3, "other.bin: this is no text", "'lpcompile disasm'"),
        ("asm text.lpcasm -o x", 3, "text.lpcasm:1: this is no assembler text", "the first line is"),
        ("asm txt.lpcasm -o x", 3, "txt.lpcasm: there is no such file", "text.lpcasm'?"),
        ("asm text.lpcasm -o x --data other.bin", 3, "other.bin: this is no program", "give a program.lpcim"),
        ("asm text.lpcasm -o other.bin", 6, "other.bin: the file exists", "--force"),
        ("asm text.lpcasm", 2, "Missing option '-o' / '--output'", "asm --help"),
    ],
)
def test_errors(
    program: Path, monkeypatch: pytest.MonkeyPatch, words: str, code: int, error: str, hint: str
) -> None:
    monkeypatch.chdir(program.parent)
    Path("empty").mkdir()
    Path("other.bin").write_bytes(b"\xff\xfe")
    Path("text.lpcasm").write_text("model x\n", "utf-8")
    lines = error_lines(*words.split(), code=code)
    assert len(lines) == 2
    assert error in lines[0]
    assert hint in lines[1]
