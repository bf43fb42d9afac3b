"""Networks for `dual-precision`."""

MLP = """m (float[4,40] x) => (float[4,9] y) <float[40,16] w, float[16] b, float[16,9] v> {
    h = Gemm (x, w, b)  r = Relu (h)  y = MatMul (r, v)
}"""
