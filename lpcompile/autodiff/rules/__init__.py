"""One vector-Jacobian rule per operator, by family; `autodiff.registry` knows which file has which."""
