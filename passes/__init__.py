"""Rewrite passes, in pipeline order.

| pass                | does                                                                              |
| ------------------- | --------------------------------------------------------------------------------- |
| `widen-float16`     | spells float16 graphs in float32, so that their layers can run on integers        |
| `fold-constants`    | evaluates constant expressions and static shape computations; inlines decided Ifs |
| `canonicalize`      | one spelling for padding, clips, pools and matrix products; removes no-ops        |
| `fold-batchnorm`    | folds batch norms, also those spelled as Mul and Add, into the layer beside them  |
| `rotate`            | rotates residual streams of transformers, folded into weights                     |
| `equalize`          | scales channels between layers so that rounding loses less, where samples are given |

Every other module here holds one concept that a pass is made of, and is named after it.
"""
