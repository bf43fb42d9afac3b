"""Quantised tensors: codes with scales, and the rules that choose the scales."""
