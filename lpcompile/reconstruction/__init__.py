"""Block reconstruction: rounding, scales and biases of a few layers learned together, from the float model's tensors."""
