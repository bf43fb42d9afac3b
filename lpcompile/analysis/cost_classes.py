"""Classes of work that costs are reported by. [architecture 2, report.json]."""

MAC, SHIFT_MAC, NORM, SCALE, ACTIVATION = "mac", "shift_mac", "norm", "scale", "activation"
COMPARE, RESIDUAL, POOL, SOFTMAX, OTHER = "compare", "residual", "pool", "softmax", "other"
CLASSES = (MAC, SHIFT_MAC, NORM, SCALE, ACTIVATION, COMPARE, RESIDUAL, POOL, SOFTMAX, OTHER)
PRODUCTS = (MAC, SHIFT_MAC)
