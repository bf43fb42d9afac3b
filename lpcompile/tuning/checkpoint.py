"""The state of a retraining after each epoch, in a folder: one `.npz`, renamed into place when it is complete."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lpcompile.errors import InputError, OutputError
from lpcompile.formats.arrays import F32

Arrays = dict[str, F32]
_ABOUT = "about"


class Checkpoints:
    """The checkpoints of one retraining.

    Args:
        folder: is made where it is missing.
        made_for: what a state fits, by name; another model or other options must not go on from it.
    """

    def __init__(self, folder: Path, made_for: Mapping[str, str]) -> None:
        self.folder, self.made_for = folder, dict(made_for)

    def refuse_existing(self) -> None:
        """Do not mix the states of two runs.

        Raises:
            OutputError: the folder holds checkpoints.
        """
        if self._files():
            raise OutputError(
                "the folder holds checkpoints of an earlier run",
                where=str(self.folder),
                hint="go on from them with --resume, or name another folder",
            )

    def save(self, epoch: int, state: Arrays) -> Path:
        """Write the state after an epoch; those of earlier epochs go once it is there.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.folder / f"epoch-{epoch:05d}.npz"
        part = path.with_suffix(".part")
        about = np.array(json.dumps({"epoch": epoch, "made_for": self.made_for}))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            earlier = self._files()
            with part.open("wb") as stream:
                np.savez(stream, **{_ABOUT: about}, **{k: np.asarray(v) for k, v in state.items()})  # type: ignore[arg-type]
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
            for old in earlier:
                if old != path:
                    old.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write a checkpoint: {error.strerror or error}",
                where=str(path),
                hint="check space and permissions",
            ) from error
        return path

    def latest(self) -> tuple[int, Arrays] | None:
        """Epoch and state of the last checkpoint; None where there is none.

        Raises:
            InputError: it is damaged, or was made for something else.
        """
        files = self._files()
        if not files:
            return None
        path = files[-1]
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {k: archive[k] for k in archive.files}
            about = json.loads(str(arrays.pop(_ABOUT)))
            epoch, made_for = int(about["epoch"]), dict(about["made_for"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                "this checkpoint is damaged", where=str(path), hint="start again without --resume"
            ) from error
        for key in sorted({*self.made_for, *made_for}):
            if made_for.get(key) != self.made_for.get(key):
                raise InputError(
                    f"the checkpoint was made with another {key}: {made_for.get(key)}, now {self.made_for.get(key)}",
                    where=str(path),
                    hint="resume with the same model, data and options, or start again in another folder",
                )
        return epoch, arrays

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.npz")) if self.folder.is_dir() else []
