"""What may be known to hold of a graph; passes require, establish and invalidate facts."""

from enum import StrEnum


class Fact(StrEnum):
    """A property of a graph or of its plan, spelled as the command line spells it."""

    CANONICAL = "canonical"
    CONSTANTS_FOLDED = "constants-folded"
    BATCHNORM_FOLDED = "batchnorm-folded"
    CHANNELS_EQUALIZED = "channels-equalized"
    INPUTS_SMOOTHED = "inputs-smoothed"
    STREAMS_ROTATED = "streams-rotated"
    SHAPES = "shapes"
    CALIBRATED = "calibrated"
    ACTIVATIONS_QUANTIZED = "activations-quantized"
    FORMATS_ASSIGNED = "formats-assigned"
    WEIGHTS_QUANTIZED = "weights-quantized"
    MATERIALISED = "materialised"
