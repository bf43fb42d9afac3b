"""What ONNX Runtime has beside ONNX, and models that it optimised hold: a domain, and norms in the domain of ONNX."""

RUNTIME_DOMAIN = "com.microsoft"

RMS_NORMS = ("RMSNormalization", "SimplifiedLayerNormalization")  # one formula, axis and epsilon alike
_FIRST_OPSET = {"LayerNormalization": 17}  # of ONNX; the runtime's means the same, from its first opset on


def is_of_runtime(op: str, opset: int) -> bool:
    """Whether only the runtime knows an operator without a domain in this opset."""
    return op == "SimplifiedLayerNormalization" or opset < _FIRST_OPSET.get(op, 0)
