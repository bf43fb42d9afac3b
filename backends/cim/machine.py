"""A compute-in-memory machine as data: a TOML file, checked and read into frozen records. [cim-machine 2]."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lpcompile.backends.cim import machine_schema as schema
from lpcompile.backends.cim.machine_sections import (
    SECTIONS,
    Accumulator,
    Adc,
    Array,
    Buffers,
    Chip,
    Core,
    Dram,
    Energy,
    HpUnit,
    Macro,
    Noc,
    System,
    Vector,
)
from lpcompile.errors import MachineDescriptionError

MOST_CORES = 1 << 12


@dataclass(frozen=True)
class MachineDescription:
    """A machine: its sections, and where each of their numbers comes from.

    Attributes:
        name, summary: as the file has them.
        adc: None for a digital tree.
        sources: by full key, "adc.conversion_fj"; one that starts with "assumed:" is an assumption.
    """

    name: str
    summary: str
    system: System
    chip: Chip
    core: Core
    macro: Macro
    array: Array
    adc: Adc | None
    accumulator: Accumulator
    hp_unit: HpUnit
    vector: Vector
    buffers: Buffers
    noc: Noc
    dram: Dram
    energy: Energy
    sources: Mapping[str, str]

    @classmethod
    def load(cls, name_or_path: str) -> "MachineDescription":
        """A built-in machine by name, or one from a TOML file by path.

        Raises:
            MachineDescriptionError: there is none, or it is wrong.
        """
        return cls.from_toml(machine_text(name_or_path), name_or_path)

    @classmethod
    def from_toml(cls, text: str, where: str = "machine") -> "MachineDescription":
        """The machine that a TOML text describes; errors name `where`.

        Raises:
            MachineDescriptionError: a key or value is wrong; the message names it, the hint says the mend.
        """
        data = schema.read_toml(text, where)
        name, summary = schema.read_header(data, where)
        sections: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for section in SECTIONS:
            if section == "adc" and sections["macro"].kind == "digital_tree":
                if section in data:
                    hint = "remove [adc], or set macro.kind to 'analog_adc'"
                    raise MachineDescriptionError("adc: a digital tree has none", where=where, hint=hint)
                sections[section] = None
                continue
            sections[section], found = schema.read_section(section, data, where)
            sources |= found
        machine = cls(name=name, summary=summary, sources=MappingProxyType(sources), **sections)
        _check_whole(machine, where)
        return machine

    @property
    def core_count(self) -> int:
        """Cores of a chip."""
        return self.chip.cores_x * self.chip.cores_y

    @property
    def macros_per_core(self) -> int:
        """Macros behind one sequencer."""
        return self.core.macros

    @property
    def row_pages(self) -> int:
        """Row pages of a macro: each holds `rows_active` rows, and one is read at a time."""
        return self.macro.rows // self.macro.rows_active

    @property
    def adc_bits(self) -> int | None:
        """Bits of a converter; None where counts are exact."""
        return None if self.adc is None else self.adc.bits

    @property
    def transfer(self) -> str | None:
        """What a converter does with counts that are too large: "clip" or "scale"; None where counts are exact."""
        return None if self.adc is None else self.adc.transfer

    @property
    def local_bytes(self) -> int:
        """Bytes of the buffer of a core."""
        return self.buffers.local_kib << 10

    @property
    def global_bytes(self) -> int:
        """Bytes of the global buffer."""
        return self.buffers.global_kib << 10

    def lossless_rows(self, *, complement: bool) -> int:
        """Rows of a block whose columns never leave the converter's range, whatever the weights.

        `R * (2^bits_per_cell - 1) * (2^input_bits_per_cycle - 1) <= 2^adc_bits - 1`, and twice the left side's room
        where a column with more ones than zeros is stored inverted.  A digital tree: all rows.
        """
        if self.adc is None:
            return self.macro.rows
        levels = ((1 << self.macro.bits_per_cell) - 1) * ((1 << self.macro.input_bits_per_cycle) - 1)
        largest = (1 << self.adc.bits + complement) - 1
        return min(largest // levels, self.macro.rows)

    def position(self, core: int) -> tuple[int, int]:
        """Column and row of a core in the mesh."""
        return core % self.chip.cores_x, core // self.chip.cores_x

    def hops(self, core: int, other: int = 0) -> int:
        """Mesh hops between two cores; those to core 0 lead to the global buffer's port."""
        (x, y), (u, v) = self.position(core), self.position(other)
        return abs(x - u) + abs(y - v)

    def value(self, key: str) -> Any:
        """A value by its full key."""
        section, _, last = key.partition(".")
        return getattr(getattr(self, section), last)

    def assumed(self, key: str) -> bool:
        """Whether the number under a full key is an assumption."""
        return self.sources.get(key, "").startswith(schema.ASSUMED)

    def assumptions(self) -> list[tuple[str, float, str]]:
        """(key, value, source) of every number that is an assumption, in the order of the sections."""
        return [(key, self.value(key), source) for key, source in self.sources.items() if self.assumed(key)]

    def values(self) -> dict[str, Any]:
        """Every value by full key, in the order of the sections."""
        found = ((name, getattr(self, name)) for name in SECTIONS)
        return {f"{n}.{f.name}": getattr(s, f.name) for n, s in found if s is not None for f in fields(s)}

    @property
    def sha256(self) -> str:
        """Hash of all values, in hex; names, sources, comments and the order of keys do not count."""
        sections = {name: getattr(self, name) for name in SECTIONS}
        plain = {name: asdict(section) for name, section in sections.items() if section is not None}
        text = json.dumps({"schema": schema.SCHEMA, **plain}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def machine_names() -> list[str]:
    """Names of the built-in machines."""
    files = (resources.files("lpcompile.backends.cim") / "machines").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def machine_text(name_or_path: str) -> str:
    """The TOML of a built-in machine, or that of a file.

    Raises:
        MachineDescriptionError: there is none, or it cannot be read.
    """
    names = machine_names()
    if name_or_path in names:
        folder = resources.files("lpcompile.backends.cim") / "machines"
        return (folder / f"{name_or_path}.toml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        near = get_close_matches(name_or_path, names, n=1)
        hint = (
            f"did you mean '{near[0]}'?"
            if near
            else f"machines are: {', '.join(names)}; or give a .toml file"
        )
        raise MachineDescriptionError(f"no machine is called '{name_or_path}'", hint=hint)
    if not path.is_file():
        raise MachineDescriptionError(
            "cannot read the machine: there is no such file", where=str(path), hint="check the path"
        )
    try:
        with path.open("rb") as file:
            raw = file.read(schema.MOST_BYTES + 1)
        if len(raw) > schema.MOST_BYTES:
            hint = "give a machine description, not data"
            raise MachineDescriptionError("more than 256 KiB", where=str(path), hint=hint)
        return raw.decode("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        message = f"cannot read the machine: {error}"
        raise MachineDescriptionError(message, where=str(path), hint="check the path") from error


def _check_whole(machine: MachineDescription, where: str) -> None:
    """Values that are possible alone and impossible together."""
    macro, adc = machine.macro, machine.adc
    wrong = ""
    if macro.rows_active > macro.rows:
        wrong = f"macro.rows_active: {macro.rows_active} is more than macro.rows ({macro.rows})"
        hint = f"at most {macro.rows}"
    elif machine.core_count > MOST_CORES:
        wrong = f"chip.cores_x: {machine.core_count} cores are too many"
        hint = f"at most {MOST_CORES} cores on a chip"
    elif adc is not None and adc.share > macro.columns:
        wrong = f"adc.share: {adc.share} is more than macro.columns ({macro.columns})"
        hint = "adc.share is the number of columns that use one converter"
    elif adc is not None and macro.kind == "analog_1b" and adc.bits != 1:
        wrong = f"adc.bits: {adc.bits} bits, but macro.kind is 'analog_1b'"
        hint = "write 1, or set macro.kind to 'analog_adc'"
    elif adc is None and macro.complement:
        wrong = "macro.complement: a digital tree counts exactly and inverts no column"
        hint = "write 'complement = false'"
    if wrong:
        raise MachineDescriptionError(wrong, where=where, hint=hint)
