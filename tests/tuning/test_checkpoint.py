"""Checkpoints: complete or not there, and never for another run."""

from pathlib import Path

import numpy as np
import pytest

from lpcompile.errors import InputError, OutputError
from lpcompile.tuning.checkpoint import Checkpoints

STATE = {"values/w": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.asarray(7, np.float32)}


def test_the_last_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "new", {"model": "abc", "epochs": "5"})
    assert kept.latest() is None
    kept.save(1, {k: v * 0 for k, v in STATE.items()})
    kept.save(2, STATE)
    found = kept.latest()
    assert found is not None
    assert found[0] == 2
    assert {k: v.tobytes() for k, v in found[1].items()} == {k: v.tobytes() for k, v in STATE.items()}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["epoch-00002.npz"]


def test_a_state_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {"model": "abc", "epochs": "5"}).save(1, STATE)
    with pytest.raises(InputError, match="another epochs: 5, now 6"):
        Checkpoints(tmp_path, {"model": "abc", "epochs": "6"}).latest()
    with pytest.raises(InputError, match="another model: abc, now abd"):
        Checkpoints(tmp_path, {"model": "abd", "epochs": "5"}).latest()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, {})
    path = kept.save(1, STATE)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        kept.latest()
    np.savez(path, w=np.zeros(2))
    with pytest.raises(InputError, match="damaged"):
        kept.latest()


def test_a_part_of_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "epoch-00003.part").write_bytes(b"half")
    assert Checkpoints(tmp_path, {}).latest() is None


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, {})
    kept.refuse_existing()
    kept.save(1, STATE)
    with pytest.raises(OutputError, match="checkpoints of an earlier run"):
        kept.refuse_existing()


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write a checkpoint"):
        Checkpoints(tmp_path / "file" / "below", {}).save(1, STATE)
