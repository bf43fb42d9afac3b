import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.base import resolve
from lpcompile.formats.group import group_table, group_unit
from lpcompile.formats.packing import unpack
from lpcompile.quant.granularity import Granularity, PerAxis, PerGroup, PerTensor
from lpcompile.quant.qtensor import QuantizedTensor

LUT = "lut4:81a3bccdd9e4f0fa000b162230405a7f"
WITH_IMAGE = ["int4", "int8", "fixp4", "posit4", "nf4", "pot4", "float4_e2m1fn", LUT]
WITHOUT = ["posit8", "posit4es1", "float8_e4m3fn", "float8_e5m2"]


def random_tensor(name: str, granularity: Granularity, shape: tuple[int, ...] = (6, 70)) -> QuantizedTensor:
    fmt = resolve(name)
    rng = np.random.default_rng(0)
    real = np.flatnonzero(np.isfinite(fmt.table()))
    scales = rng.uniform(0.01, 1, granularity.scale_shape(shape)).astype(np.float32)
    return QuantizedTensor(rng.choice(real, shape).astype(np.uint8), fmt, granularity, scales)


def with_integer_groups(
    name: str, eight_bit_scales: bool, shape: tuple[int, int] = (6, 70)
) -> QuantizedTensor:
    rng = np.random.default_rng(1)
    groups = PerGroup(32).scale_shape(shape)
    channel: NDArray[np.float32] | QuantizedTensor = rng.uniform(0.01, 1, shape[0]).astype(np.float32)
    if eight_bit_scales:
        codes = rng.integers(0, 256, shape[0]).astype(np.uint8)
        channel = QuantizedTensor(codes, resolve("ufloat8_e4m4"), PerTensor(), np.array(2**-20, np.float32))
    m = QuantizedTensor(rng.integers(1, 16, groups).astype(np.uint8), resolve("uint4"), PerAxis(0), channel)
    return QuantizedTensor(random_tensor(name, PerTensor(), shape).codes, resolve(name), PerGroup(32), m)


def test_codes_of_int8_are_their_image() -> None:
    tensor = random_tensor("int8", PerAxis(0))
    w8, _ = tensor.int8_image()
    assert np.shares_memory(w8, tensor.codes)
    assert np.array_equal(w8, np.take(resolve("int8").table(), tensor.codes))


@pytest.mark.parametrize("name", [*WITH_IMAGE, *WITHOUT])
@pytest.mark.parametrize(
    "granularity", [PerTensor(), PerAxis(0), PerAxis(1), PerGroup(32), PerGroup(4, axis=0)]
)
def test_dequantize_is_the_definition(name: str, granularity: Granularity) -> None:
    q = random_tensor(name, granularity)
    assert isinstance(q.scales, np.ndarray)
    scales = granularity.expand(q.scales.astype(np.float64), q.shape)
    table: NDArray[np.float64] = q.format.table()
    image = q.format.image()
    if image is not None and not isinstance(granularity, PerGroup):
        table = (
            image.astype(np.float64) * q.format.image_scale
        )  # the image defines a compiled layer; equal but for nf4
    expected = scales * table[q.codes]
    assert np.allclose(q.dequantize(), expected, rtol=1.5e-7, atol=0)
    assert q.dequantize().dtype == np.float32


@pytest.mark.parametrize("name", WITH_IMAGE)
@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0), PerAxis(1)])
def test_int8_image_is_exact(name: str, granularity: Granularity) -> None:
    q = random_tensor(name, granularity)
    w8, scale = q.int8_image()
    assert w8.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == granularity.scale_shape(q.shape)
    assert np.array_equal(q.dequantize(), w8.astype(np.float32) * granularity.expand(scale, q.shape))
    if q.format.image_exact:
        assert isinstance(q.scales, np.ndarray)
        by_table = q.format.decode(q.codes) * granularity.expand(q.scales, q.shape)
        assert np.array_equal(q.dequantize(), by_table)


@pytest.mark.parametrize("name", WITH_IMAGE[:1] + WITH_IMAGE[2:])
@pytest.mark.parametrize("eight_bit_scales", [False, True])
def test_integer_groups_are_rows_of_the_table(name: str, eight_bit_scales: bool) -> None:
    q = with_integer_groups(name, eight_bit_scales)
    assert q.has_integer_groups
    w8, scale = q.int8_image()
    table = group_table(q.format)
    assert isinstance(q.scales, QuantizedTensor)
    for c, k in [(0, 0), (0, 31), (0, 32), (3, 63), (5, 64), (5, 69)]:
        assert w8[c, k] == table[q.scales.codes[c, k // 32], q.codes[c, k]]
    inner = q.scales.scales
    channel = inner.dequantize() if isinstance(inner, QuantizedTensor) else inner
    assert np.array_equal(scale, channel * np.float32(group_unit(q.format)))
    assert np.array_equal(q.dequantize(), w8.astype(np.float32) * scale[:, None])
    if q.format.name in ("int4", "fixp4"):  # exact rows: the group scale m * s times the value
        definition = np.repeat(q.scales.dequantize(), 32, axis=1)[:, :70].astype(
            np.float64
        ) * q.format.decode(q.codes)
        assert np.allclose(q.dequantize(), definition, rtol=2e-7, atol=0)


def test_eight_bit_channel_scales_are_exact() -> None:
    q = with_integer_groups("posit4", eight_bit_scales=True)
    assert isinstance(q.scales, QuantizedTensor)
    inner = q.scales.scales
    assert isinstance(inner, QuantizedTensor)
    code = inner.codes.astype(int)
    assert np.array_equal(inner.dequantize(), (16 + (code & 15)) * 2.0 ** (code >> 4) * 2.0**-20)


@pytest.mark.parametrize("tensor", [random_tensor("int4", PerGroup(32)), random_tensor("posit8", PerAxis(0))])
def test_no_image_says_why(tensor: QuantizedTensor) -> None:
    assert not tensor.has_int8_image
    with pytest.raises(FormatError, match="has no int8 image") as caught:
        tensor.int8_image()
    assert caught.value.hint is not None


def test_an_image_less_its_zero_reaches_the_end_of_int8_and_no_further() -> None:
    def tensor(value: int) -> QuantizedTensor:
        codes = np.array([[value, 127]], np.int8).view(np.uint8)
        return QuantizedTensor(
            codes, resolve("int8"), PerTensor(), np.array(1, np.float32), np.array(1, np.uint8)
        )

    assert tensor(-127).int8_image()[0].tolist() == [[-128, 126]]
    with pytest.raises(FormatError, match="does not fit int8"):
        tensor(-128).int8_image()


def test_zero_points() -> None:
    codes = np.array([[0, 8, 15], [3, 3, 0]], np.uint8)
    scales, zeros = np.array([0.5, 2], np.float32), np.array([8, 3], np.uint8)
    q = QuantizedTensor(codes, resolve("uint4"), PerAxis(0), scales, zeros)
    assert q.dequantize().tolist() == [[-4, 0, 3.5], [0, 0, -6]]
    w8, scale = q.int8_image()
    assert (w8 * scale[:, None]).tolist() == q.dequantize().tolist()
    with pytest.raises(FormatError, match="takes no zero points"):
        QuantizedTensor(codes, resolve("posit4"), PerAxis(0), scales, zeros)


@pytest.mark.parametrize(("group", "expected"), [(128, 4.125), (64, 4.25), (32, 4.5)])
def test_bits_of_dpq_e9(group: int, expected: float) -> None:
    """4 + 16/g with 16-bit group scales; + 4/g with zero points."""
    shape = (16, 256)
    scales = np.ones(PerGroup(group).scale_shape(shape), np.float32)
    zeros = np.full(scales.shape, 8, np.uint8)
    codes = np.zeros(shape, np.uint8)
    symmetric = QuantizedTensor(codes, resolve("uint4"), PerGroup(group), scales, scale_bits=16)
    assert symmetric.bits_per_element == expected
    assert symmetric.nbytes * 8 == expected * codes.size
    asymmetric = QuantizedTensor(codes, resolve("uint4"), PerGroup(group), scales, zeros, scale_bits=16)
    assert asymmetric.bits_per_element == expected + 4 / group


def test_bits_of_double_quantisation() -> None:
    """6 x 70 weights: 4 bits each, 6 x 3 multipliers of 4 bits, 6 scales of 8 bits, one float32."""
    q = with_integer_groups("fixp4", eight_bit_scales=True)
    assert q.total_bits == 6 * 70 * 4 + 6 * 3 * 4 + 6 * 8 + 32
    assert q.nbytes == 210 + 9 + 6 + 4
    assert with_integer_groups("fixp4", eight_bit_scales=False).nbytes == 210 + 9 + 24
    assert random_tensor(LUT, PerTensor()).total_bits == 6 * 70 * 4 + 32 + 16 * 8


@given(st.integers(1, 5), st.integers(1, 9))
def test_packed_is_onnx_order(rows: int, columns: int) -> None:
    q = random_tensor("posit4", PerAxis(0), (rows, columns))
    assert np.array_equal(unpack(q.packed(), 4, rows * columns), q.codes.reshape(-1))


def test_equality_is_by_content() -> None:
    a, b = random_tensor("int4", PerAxis(0)), random_tensor("int4", PerAxis(0))
    assert a == b
    assert hash(a) == hash(b)
    assert len(a.digest()) == 64
    other = a.codes.copy()
    other[0, 0] ^= 1
    assert isinstance(a.scales, np.ndarray)
    differing = [
        QuantizedTensor(other, a.format, a.granularity, a.scales),
        QuantizedTensor(a.codes, resolve("fixp4"), a.granularity, a.scales),
        QuantizedTensor(a.codes, a.format, a.granularity, a.scales * np.float32(2)),
        QuantizedTensor(a.codes, a.format, a.granularity, a.scales, np.zeros(6, np.uint8)),
    ]
    assert all(d != a for d in differing)
    assert with_integer_groups("int4", True) != with_integer_groups("int4", False)


def test_reshape() -> None:
    q = random_tensor("int4", PerAxis(0), (6, 18))
    kernel = q.reshape((6, 2, 3, 3))
    assert kernel.shape == (6, 2, 3, 3)
    assert np.array_equal(kernel.dequantize().reshape(6, 18), q.dequantize())
    for bad in (random_tensor("int4", PerGroup(8)), random_tensor("int4", PerAxis(1))):
        with pytest.raises(FormatError, match="does not survive"):
            bad.reshape((6, 10, 7))
    with pytest.raises(FormatError, match="does not survive"):
        q.reshape((18, 6))


def test_parts_that_do_not_fit() -> None:
    codes, scales = np.zeros((2, 3), np.uint8), np.ones(2, np.float32)
    fmt = resolve("int4")
    with pytest.raises(FormatError, match=r"needs scales of shape \(2,\), not \(3,\)"):
        QuantizedTensor(codes, fmt, PerAxis(0), np.ones(3, np.float32))
    with pytest.raises(FormatError, match="scales must be float32"):
        QuantizedTensor(codes, fmt, PerAxis(0), np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="codes must be uint8"):
        QuantizedTensor(codes.astype(np.int8), fmt, PerAxis(0), scales)
    with pytest.raises(FormatError, match="code 16 does not fit int4"):
        QuantizedTensor(codes + np.uint8(16), fmt, PerAxis(0), scales)
    with pytest.raises(FormatError, match="zero points must have the shape"):
        QuantizedTensor(codes, fmt, PerAxis(0), scales, np.zeros(3, np.uint8))
