"""Retraining of low-precision weights on the gradient graph: estimators, optimisers, checkpoints. [mixed-posit 2.9]."""
