"""Reverse-mode differentiation of an ONNX graph into an ONNX graph; run wherever that runs. [architecture 5]."""
