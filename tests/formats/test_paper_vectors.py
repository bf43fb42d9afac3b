"""Vectors of the other paper notes that concern formats (section 6 of each)."""

import numpy as np

from lpcompile.formats.base import resolve

W = np.array([0.31, -0.52, 0.07, 0, -0.88, 0.44, -0.13, 0.66])


def test_npp_v1_nf4() -> None:
    fmt = resolve("nf4")
    codes = fmt.encode(W / 0.88)
    assert codes.tolist() == [11, 2, 8, 7, 0, 12, 5, 14]
    values = 0.88 * fmt.decode(codes).astype(np.float64)
    expected = [0.297365, -0.462064, 0.070031, 0, -0.88, 0.387825, -0.162601, 0.636202]
    assert np.allclose(values, expected, atol=5e-7)
    assert np.isclose(np.mean((W - values) ** 2), 9.83449e-4, rtol=1e-5)


def test_npp_e2_thresholds_of_nf4() -> None:
    grid = resolve("nf4").grid()
    # fmt: off
    expected = [
        -0.848096, -0.610633, -0.459995, -0.339679, -0.234607, -0.137912, -0.045525, 0.03979,
        0.120255, 0.203521, 0.292014, 0.389313, 0.501663, 0.642787, 0.861478,
    ]
    # fmt: on
    assert np.allclose((grid[1:] + grid[:-1]) / 2, expected, atol=1e-6)


def test_npp_v2_integers() -> None:
    for name, top, scale, codes, mse in [
        ("int4", 7, 0.125714, [2, -4, 1, 0, -7, 4, -1, 5], 1.473214e-3),
        ("int8", 127, 0.00692913, [45, -75, 10, 0, -127, 63, -19, 95], 2.70243e-6),
    ]:
        fmt = resolve(name)
        s = 0.88 / top
        assert np.isclose(s, scale, rtol=1e-5)
        q = fmt.decode(fmt.encode(W / s)).astype(np.float64)
        assert q.tolist() == codes
        assert np.isclose(np.mean((W - s * q) ** 2), mse, rtol=1e-5)


def test_npp_v3_bit_planes() -> None:
    """Codes of int4 are two's complement: their bits are the planes that a bit-plane array multiplies."""
    fmt = resolve("int4")
    x, w = (fmt.encode(np.array(v, np.float64)) for v in ([3, -2, 7, -8], [-1, 5, -8, 2]))
    planes = np.array([[np.sum(x >> i & w >> j & 1) for j in range(4)] for i in range(4)])
    assert planes.tolist() == [[1, 1, 1, 2], [2, 1, 2, 2], [1, 0, 1, 1], [1, 1, 1, 0]]
    place = np.array([1, 2, 4, -8])
    assert place @ planes @ place == -85 == fmt.decode(x).astype(int) @ fmt.decode(w).astype(int)


def test_pikelpn_6_10_power_of_two() -> None:
    fmt = resolve("pot4")
    w = np.array([1.3, 0.76, 0.74, 0.71, 0.7, 0.36, 0.35, -0.19, 0.18, 0.011, 0.0105, -0.007])
    expected = [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, -0.25, 0.125, 1 / 64, 1 / 64, 0]
    assert fmt.decode(fmt.encode(w)).tolist() == expected
    assert fmt.grid()[fmt.grid() >= 0].tolist() == [0, *(2.0**-e for e in range(6, -1, -1))]
    by_exponent = resolve("pot4_log")
    assert by_exponent.decode(by_exponent.encode(w)).tolist() == [
        1,
        1,
        1,
        1,
        0.5,
        0.5,
        0.25,
        -0.25,
        0.25,
        0,
        0,
        0,
    ]
    assert by_exponent.grid().tolist() == fmt.grid().tolist()


def test_dpq_v0_casts() -> None:
    fmt = resolve("float8_e4m3fn")
    x = [17, 18, 19, 21, 34, 34.1, 119.4667, 225, 232, 0.0146, 0.002, 2.0**-10, 464, 1e9]
    expected = [16, 18, 20, 20, 32, 36, 120, 224, 224, 0.013671875, 0.001953125, 0, 448, 448]
    assert fmt.decode(fmt.encode(np.array(x))).tolist() == expected
    for name, count in [("float8_e4m3fn", 127), ("float8_e4m3fn_240", 120), ("float8_e4m3fnuz", 128)]:
        assert len(np.unique(np.abs(resolve(name).grid()))) == count
    clipped = resolve("float8_e4m3fn_240")
    assert clipped.max == 240
    assert clipped.decode(clipped.encode(np.array([1e3, -247.0]))).tolist() == [240, -240]


def test_dpq_i1_int4_is_exact_in_e4m3() -> None:
    fmt = resolve("float8_e4m3fn")
    integers = np.arange(-8.0, 16)
    assert np.array_equal(fmt.decode(fmt.encode(integers)), integers)
    assert fmt.decode(fmt.encode(np.array([17.0])))[0] != 17


def test_dpq_v1_steps_through_formats() -> None:
    """E2 to E4 of the full path, group size 4, s2 in float32."""
    fp8, uint4 = resolve("float8_e4m3fn_240"), resolve("uint4")
    w = np.array([[0.5, -0.25, 0.1, -0.03], [0.02, 0.015, -0.04, 0]], np.float32) * 256
    w8 = fp8.decode(fp8.encode(w))
    assert w8.tolist() == [[128, -64, 26, -7.5], [5, 3.75, -10, 0]]
    s2 = (2 * np.abs(w8).max(axis=1, keepdims=True) / 15).astype(np.float32)
    codes = uint4.encode(w / s2 + np.float32(8))
    assert codes.tolist() == [[15, 4, 10, 8], [12, 11, 0, 8]]
    expanded = fp8.decode(fp8.encode(s2 * (uint4.decode(codes) - 8)))
    assert expanded.tolist() == [[120, -72, 36, 0], [5.5, 4, -11, 0]]
