"""Matrix and depthwise layers in strips, rounds and parts on small machines: the integers of ONNX Runtime."""

from pathlib import Path

import pytest

from lpcompile.backends.cim.machine import machine_text
from tests.backends.cim.network_checks import check, compiled, program_of
from tests.backends.cim.random_machines import with_values
from tests.support import parse_model, random_feeds

REFERENCE = machine_text("reference")
ONE_CORE = with_values(REFERENCE, chip__cores_x=1, chip__cores_y=1, core__macros=2, buffers__local_kib=4)
TINY = with_values(REFERENCE, buffers__local_kib=1)
LAYERS = {
    "depthwise in parts": (TINY, "b = Conv <group = 60, pads = [1, 1, 1, 1]> (x, d)", 120),
    "depthwise in parts on one core": (ONE_CORE, "b = Conv <group = 60, pads = [2, 0, 0, 2]> (x, d)", 120),
    "groups": (ONE_CORE, "b = Conv <group = 4, pads = [1, 1, 1, 1], strides = [2, 1]> (x, g)", 12),
    "rounds": (ONE_CORE, "b = Conv <strides = [2, 2]> (x, w)", 40),
    "columns": (TINY, "b = Conv <dilations = [1, 2], pads = [0, 1, 0, 1]> (x, v)", 40),
}


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "batch"), [*((n, "N") for n in LAYERS), ("groups", "2")])
def test_layers(name: str, batch: str, tmp_path: Path) -> None:
    machine, node, channels = LAYERS[name]
    shapes = {"d": "120,1,3,3", "g": "12,15,3,3", "w": "40,60,3,3", "v": "40,60,1,3"}
    weights = f"float[{shapes[node[-2]]}] {node[-2]}"
    text = f"""net (float[{batch},60,5,4] x) => (float[{batch},2,a,b] y) <{weights}, float[2,{channels},1,1] last> {{
        {node}
        y = Conv (b, last) }}"""
    model = parse_model(text, check=False)
    made = compiled(model, [random_feeds(model, seed=i) for i in range(2)], machine, tmp_path)
    assert not made.report["host"]
    assert check(made, machine, random_feeds(model, seed=9), planes=True)
    words = [w.mnemonic for c in program_of(made).cores for s in c.run for w in s]
    assert ("VDW" in words) == ("depthwise" in name)
    if name == "rounds":
        assert words.count("WPROG") > 1  # not all rows fit at a time
