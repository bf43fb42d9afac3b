"""Machines for generated networks: the built-in ones, and small ones that never fit quite."""

import re

import numpy as np

from lpcompile.backends.cim.machine import MachineDescription, machine_names, machine_text

PRESETS = tuple(machine_names())


def with_values(text: str, **values: object) -> str:
    """A machine's TOML with other values: section__key=value."""
    for name, value in values.items():
        section, key = name.split("__")
        head, mark, rest = text.partition(f"[{section}]\n")
        pattern = rf"(?m)^{key} = (\{{ value = )?[^,\n]+"
        found = re.search(pattern, rest)
        assert mark, section
        assert found is not None, key
        text = (
            f"{head}{mark}{rest[: found.start()]}{key} = {found[1] or ''}{_shown(value)}{rest[found.end() :]}"
        )
    return text


def _shown(value: object) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f'"{value}"'
        if isinstance(value, str)
        else str(value)
    )


def small_machine(rng: np.random.Generator, *, lossy: bool = False) -> str:
    """TOML of a small machine of the user's own; with `lossy` one whose converter is too short for its rows."""

    def one(*items: int) -> int:
        return int(items[int(rng.integers(len(items)))])

    adc = one(2, 3, 4, 5, 6)
    complement = bool(rng.integers(2))
    rows = one(8, 16, 32, 64)
    most = (2 << adc) - 1 if complement else (1 << adc) - 1
    active = min(rows, most)
    if lossy:
        rows, adc = 64, one(2, 3, 4)
        active = one(20, 33, 64)
    cells = one(1, 1, 1, 2)
    return with_values(
        machine_text("reference"),
        chip__cores_x=one(1, 2, 3),
        chip__cores_y=one(1, 2),
        core__macros=one(1, 2, 4, 9),
        macro__rows=rows,
        macro__columns=one(9, 16, 32, 64),
        macro__bits_per_cell=1 if lossy else cells,
        macro__rows_active=active,
        macro__input_bits_per_cycle=1,
        macro__complement=complement,
        adc__bits=adc,
        adc__share=one(1, 4, 8),
        adc__transfer="scale" if lossy and rng.integers(2) else "clip",
        buffers__local_kib=one(1, 2, 4, 16),
        buffers__global_kib=one(1, 4, 16, 256),
    )


def digital_machine(rng: np.random.Generator) -> str:
    """TOML of a small machine without converters."""
    columns = int(rng.choice([9, 16, 40]))
    return with_values(
        machine_text("tsmc22-dcim"), macro__columns=columns, buffers__local_kib=int(rng.choice([1, 8]))
    )


def machine_for(seed: int) -> str:
    """Name of a built-in machine, or TOML of a small one."""
    rng = np.random.default_rng([seed, 7])
    kind = int(rng.integers(10))
    if kind < 5:
        return str(rng.choice(PRESETS))
    return digital_machine(rng) if kind == 5 else small_machine(rng, lossy=kind == 9)


def description(machine: str) -> MachineDescription:
    """The machine of a name or a TOML text."""
    return MachineDescription.load(machine) if machine in PRESETS else MachineDescription.from_toml(machine)
