"""Left-right mirror images of samples as further samples, for networks to which both are as likely.

What is learned from few images follows them; their mirror images cost nothing and are what such networks were trained
with. Only calls that decide get copies, so that judging calls stay ones that nothing has seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.inputs import Feeds, InputSpec
from lpcompile.errors import CalibrationError

CHANNELS = (1, 3, 4)
RANK = 4


def mirrored(calibration: Calibration, inputs: Sequence[InputSpec]) -> Calibration:
    """The samples, and a mirror image of every one that decides.

    Args:
        calibration: with images (N, C, H, W) or (N, H, W, C) of 1, 3 or 4 channels; all images of a call are mirrored,
            everything else is repeated.
        inputs: what the model takes.

    Raises:
        CalibrationError: no input holds images.
    """
    names = [spec.name for spec in inputs]
    widths = {n: width for n in names if (width := _width_axis(calibration.calls[0][n])) is not None}
    if not widths:
        raise CalibrationError(
            f"no input holds images that could be mirrored, of {', '.join(names)}",
            hint="images are (N, C, H, W) or (N, H, W, C) of 1, 3 or 4 channels; leave --mirror-samples out",
        )
    return replace(calibration, copies=[_mirror(call, widths) for call in calibration.deciding])


def _width_axis(image: np.ndarray) -> int | None:
    if image.ndim != RANK:
        return None
    if image.shape[1] in CHANNELS:
        return 3
    return 2 if image.shape[3] in CHANNELS else None


def _mirror(call: Feeds, widths: Mapping[str, int]) -> Feeds:
    return {n: np.ascontiguousarray(np.flip(a, widths[n])) if n in widths else a for n, a in call.items()}
