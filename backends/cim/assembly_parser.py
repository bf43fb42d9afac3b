"""Reads the text form of a program; what it holds is described in `assembler`."""

import base64
import binascii
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from lpcompile.backends.cim import assembly_tables as tables
from lpcompile.backends.cim.assembler import TEXT_VERSION, blob_words
from lpcompile.backends.cim.assembly_syntax import (
    CONTINUED,
    number,
    numbers,
    parsed_instruction,
    unquoted,
    words_of,
)
from lpcompile.backends.cim.assembly_tables import need
from lpcompile.backends.cim.isa import isa
from lpcompile.backends.cim.program import CoreCode, DeviceStage, HostStage, Instruction, Program
from lpcompile.backends.cim.program_check import check_program
from lpcompile.errors import ProgramError
from lpcompile.registry import near_match

_Blob = tuple[int, list[str]]  # line, [bytes, SHA-256]


def assemble(text: str, *, where: str = "program.lpcasm", data: Program | None = None) -> Program:
    """The program that a text describes.

    Args:
        text: untrusted.
        where: its file, for messages.
        data: a program that holds the weights, constants and models which the text only names.

    Raises:
        ProgramError: with file and line; the text is none, what it describes does not hold together, or data are
            missing.
    """
    parser = _Parser(where)
    parser.read(text)
    program = parser.program(data)
    try:
        check_program(program)
    except ProgramError as error:
        line = parser.line_of(error.where or "")
        place = f"{where}: {error.where}" if line is None else f"{where}:{line}"
        raise ProgramError(
            error.message, where=place, hint="mend the entry that the line describes"
        ) from error
    return program


class _Parser:
    """One pass over the lines; every directive has a method of its name."""

    def __init__(self, where: str) -> None:
        self.where, self.line = where, 0
        self.single: dict[str, list[str]] = {}
        self.entries: dict[str, list[Any]] = {
            name: []
            for name in ("node", "planes", "lut", "requant", "desc", "group", "stage", "input", "output")
        }
        self.lines: dict[str, int] = {}  # what check_program calls an entry -> its line
        self.requant_words: list[str] | None = None
        self.requant_line = 0
        self.lists: dict[str, tuple[int, ...]] = {}
        self.in_stage = False
        self.blobs: dict[str, _Blob] = {}
        self.data: dict[str, list[str]] = {}
        self.data_lines: list[str] | None = None
        self.cores: list[list[list[Instruction]]] = []
        self.stream: list[Instruction] | None = None
        self.stream_lines: dict[str, list[int]] = {}
        self.directives: dict[str, Callable[[Sequence[str]], None]] = {
            **dict.fromkeys(("lpcasm", "machine", "sha256", "isa", "dram"), self._single),
            **dict.fromkeys(("weights", "consts"), self._blob),
            **dict.fromkeys(("input", "output"), self._interface),
            **dict.fromkeys(("node", "planes", "lut", "desc", "group"), self._entry),
            **dict.fromkeys(("m", "b", "k"), self._list),
            **dict.fromkeys(("in", "out"), self._tensor),
            "requant": self._requant, "why": self._why, "stage": self._stage, "core": self._core, "data": self._data,
        }  # fmt: skip

    def read(self, text: str) -> None:
        """Read every line."""
        try:
            for line, words in self._logical_lines(text):
                self.line = line
                self._directive(words)
            self._end_requant()
        except ProgramError as error:
            raise ProgramError(error.message, where=f"{self.where}:{self.line}", hint=error.hint) from error

    def _logical_lines(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """Words with their line; what continues is joined, base64 and instructions seen before are dealt with."""
        first, pending = 0, list[str]()
        seen: dict[str, Instruction] = {}
        for index, raw in enumerate(text.split("\n"), 1):
            if self.data_lines is not None and raw[:1] == " ":
                self.data_lines.append(raw.strip())
                continue
            if self.stream is not None and not pending and raw in seen:
                self._issue(seen[raw], index)
                continue
            self.line = index
            words = words_of(raw)
            if not words:
                continue
            first = first if pending else index
            if words[-1] == CONTINUED:
                pending += words[:-1]
                continue
            fresh = self.stream is not None and not pending
            count = 0 if self.stream is None else len(self.stream)
            words, pending = pending + words, []
            yield first, words
            if fresh and self.stream is not None and len(self.stream) == count + 1:
                seen[raw] = self.stream[-1]
        if pending:
            self._refuse("the last line is continued, but there is none", "remove the \\ at its end")

    def _directive(self, words: Sequence[str]) -> None:
        if not self.single and words[0] != "lpcasm":
            self._refuse(
                "this is no assembler text of a program", f"the first line is 'lpcasm {TEXT_VERSION}'"
            )
        if self.stream is not None and words[0].partition(".")[0] in isa().operations:
            self._issue(parsed_instruction(words), self.line)
            return
        handler = self.directives.get(words[0])
        if handler is None and self.stream is not None:
            parsed_instruction(words)  # says what comes near
        if handler is None:
            self._refuse(f"unknown '{words[0]}'", near_match(words[0], list(self.directives)))
        if words[0] not in {"m", "b", "k"}:
            self._end_requant()
        self.data_lines = None
        self.in_stage = words[0] == "stage" or (self.in_stage and words[0] in {"in", "out", "why"})
        if words[0] != "core":
            self.stream = None
        handler(words)

    def _issue(self, instruction: Instruction, line: int) -> None:
        if self.stream is not None:
            self.stream.append(instruction)
            self.stream_lines[next(reversed(self.stream_lines))].append(line)

    def _single(self, words: Sequence[str]) -> None:
        need(words, 2, f"{words[0]} VALUE")
        if words[0] in self.single:
            self._refuse(f"'{words[0]}' stands there twice", "keep one of them")
        known = {"lpcasm": TEXT_VERSION, "isa": isa().version}.get(words[0])
        if known is not None and number(words[1]) != known:
            hint = "write the text again with this version"
            self._refuse(f"version {words[1]} of {words[0]}, and this lpcompile knows {known}", hint)
        if words[0] == "dram":
            number(words[1])
        self.single[words[0]] = [unquoted(words[1])]
        self.lines[words[0]] = self.line

    def _blob(self, words: Sequence[str]) -> None:
        need(words, 3, f"{words[0]} BYTES SHA256")
        if words[0] in self.blobs:
            self._refuse(f"'{words[0]}' stands there twice", "keep one of them")
        self.blobs[words[0]] = self.line, list(words[1:])

    def _interface(self, words: Sequence[str]) -> None:
        self.lines.setdefault(f"{words[0]}s", self.line)
        self.entries[words[0]].append(tables.interface(words[1:]))

    def _entry(self, words: Sequence[str]) -> None:
        kind = words[0]
        self._number(words)
        rest = words[2:]
        if kind == "node":
            need(rest, 1, "node I NAME")
            self.entries[kind].append(unquoted(rest[0]))
        else:
            readers: dict[str, Callable[[Sequence[str]], Any]] = {
                "planes": tables.plane_set, "lut": tables.lut, "desc": tables.descriptor, "group": tables.group,
            }  # fmt: skip
            self.entries[kind].append(readers[kind](rest))

    def _number(self, words: Sequence[str]) -> None:
        """Check the number after a directive, which counts from 0."""
        need(words[1:2], 1, f"{words[0]} I ...")
        expected = len(self.entries[words[0]])
        if number(words[1]) != expected:
            self._refuse(
                f"{words[0]} {words[1]} where {words[0]} {expected} follows", "number the entries from 0"
            )
        name = {"desc": "descriptor", "planes": "plane set"}.get(words[0], words[0])
        self.lines[f"{name} {expected}"] = self.line

    def _requant(self, words: Sequence[str]) -> None:
        self._number(words)
        self.requant_words, self.requant_line, self.lists = list(words[2:]), self.line, {}

    def _list(self, words: Sequence[str]) -> None:
        if self.requant_words is None or words[0] in self.lists:
            self._refuse(
                f"'{words[0]}' stands below no requant, or twice", "write m, b and k once below each requant"
            )
        self.lists[words[0]] = numbers(words[1:])

    def _end_requant(self) -> None:
        if self.requant_words is not None:
            now, self.line = self.line, self.requant_line  # what is wrong is wrong up there
            self.entries["requant"].append(tables.requant(self.requant_words, self.lists))
            self.requant_words, self.line = None, now

    def _stage(self, words: Sequence[str]) -> None:
        self._number(words)
        index, kind = len(self.entries["stage"]), "".join(words[2:3])
        if kind == "device":
            need(words, 4, "stage I device RUN")
            self.entries["stage"].append(DeviceStage(number(words[3]), (), ()))
        elif kind == "host":
            need(words, 5, "stage I host BYTES SHA256")
            self.blobs[f"host {index}"] = self.line, list(words[3:])
            self.entries["stage"].append(HostStage(b"", (), (), {}))
        else:
            self._refuse(f"no kind of stage is called '{kind}'", "write device or host")

    def _tensor(self, words: Sequence[str]) -> None:
        stage, side = self._current_stage(), "inputs" if words[0] == "in" else "outputs"
        if isinstance(stage, HostStage):
            need(words, 2, f"{words[0]} NAME")
        new = unquoted(words[1]) if isinstance(stage, HostStage) else tables.port(words[1:])
        self.entries["stage"][-1] = dataclasses.replace(stage, **{side: (*getattr(stage, side), new)})

    def _why(self, words: Sequence[str]) -> None:
        stage = self._current_stage()
        need(words, 3, "why NODE REASON")
        if not isinstance(stage, HostStage) or unquoted(words[1]) in stage.reasons:
            self._refuse("'why' below a device stage, or twice for one node", "keep one reason a node")
        reasons = {**stage.reasons, unquoted(words[1]): unquoted(words[2])}
        self.entries["stage"][-1] = dataclasses.replace(stage, reasons=reasons)

    def _current_stage(self) -> Any:
        if not self.in_stage:
            self._refuse("this stands below no stage", "write 'stage 0 device 0' above it")
        return self.entries["stage"][-1]

    def _core(self, words: Sequence[str]) -> None:
        need(words, 3, "core I boot, or core I run J", 4)
        core, kind = number(words[1]), words[2]
        if kind == "boot" and len(words) == 3 and core == len(self.cores):
            self.cores.append([[]])
        elif kind == "run" and len(words) == 4 and core == len(self.cores) - 1:
            if number(words[3]) != len(self.cores[-1]) - 1:
                self._refuse(f"run {words[3]} where run {len(self.cores[-1]) - 1} follows", "number from 0")
            self.cores[-1].append([])
        else:
            self._refuse("streams are out of order", "write core 0 boot, core 0 run 0, ..., core 1 boot, ...")
        self.stream = self.cores[-1][-1]
        name = f"core {core} {kind}" if kind == "boot" else f"core {core} run {number(words[3])}"
        self.lines[name], self.stream_lines[name] = self.line, []

    def _data(self, words: Sequence[str]) -> None:
        name = " ".join(words[1:])
        if name not in self.blobs or name in self.data:
            self._refuse(f"data of '{name}', which the text does not name before, or twice", "remove it")
        self.data_lines = self.data[name] = []

    def program(self, data: Program | None) -> Program:
        """The program, not checked yet."""
        needed = ("lpcasm", "machine", "sha256", "isa", "dram", "weights", "consts")
        missing = [name for name in needed if name not in self.single and name not in self.blobs]
        if missing:
            message, hint = f"'{missing[0]}' is missing", f"write {missing[0]} at the top"
            raise ProgramError(message, where=self.where, hint=hint)
        held = [] if data is None else [data.weights, data.consts, *_models(data)]
        known = {tuple(blob_words(blob)): blob for blob in (b"", *held)}
        found = {name: self._found(name, blob, known) for name, blob in self.blobs.items()}
        stages = [
            dataclasses.replace(stage, model=found[f"host {i}"]) if isinstance(stage, HostStage) else stage
            for i, stage in enumerate(self.entries["stage"])
        ]
        return Program(
            machine=self.single["machine"][0],
            machine_sha256=self.single["sha256"][0],
            cores=tuple([CoreCode(tuple(c[0]), tuple(map(tuple, c[1:]))) for c in self.cores]),
            descriptors=tuple(self.entries["desc"]),
            groups=tuple(self.entries["group"]),
            plane_sets=tuple(self.entries["planes"]),
            requants=tuple(self.entries["requant"]),
            luts=tuple(self.entries["lut"]),
            weights=found["weights"],
            consts=found["consts"],
            dram_bytes=number(self.single["dram"][0]),
            stages=tuple(stages),
            inputs=tuple(self.entries["input"]),
            outputs=tuple(self.entries["output"]),
            nodes=tuple(self.entries["node"]),
        )

    def _found(self, name: str, blob: _Blob, known: dict[tuple[str, ...], bytes]) -> bytes:
        """Bytes that the text holds, or names."""
        line, words = blob
        where = f"{self.where}:{line}"
        if name not in self.data:
            if tuple(words) not in known:
                hint = "give the program that holds them with --data, or write the text with 'disasm --full'"
                raise ProgramError(f"the bytes of '{name}' are not in the text", where=where, hint=hint)
            return known[tuple(words)]
        try:
            found = base64.b64decode("".join(self.data[name]), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProgramError(f"data of '{name}': {error}", where=where, hint="write base64") from error
        if blob_words(found) != words:
            hint = "write the size and SHA-256 of the new data, or take back the change"
            raise ProgramError(f"data of '{name}' do not have this size and hash", where=where, hint=hint)
        return found

    def line_of(self, entry: str) -> int | None:
        """The line of what `check_program` names."""
        stream, _, word = entry.partition(", word ")
        if stream in self.stream_lines and word:
            return self.stream_lines[stream][int(word)]
        return self.lines.get(entry.partition(", ")[0])

    def _refuse(self, message: str, hint: str) -> NoReturn:
        raise ProgramError(message, hint=hint)


def _models(program: Program) -> list[bytes]:
    return [stage.model for stage in program.stages if isinstance(stage, HostStage)]
