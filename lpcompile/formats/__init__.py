"""Number formats: what a code of up to 8 bits means, without tensors."""
