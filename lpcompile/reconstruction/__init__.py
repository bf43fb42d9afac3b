"""Block reconstruction: rounding, scales and biases of a few layers are learned together, from float tensors."""
