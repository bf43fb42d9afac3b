import numpy as np
import onnx
import pytest
from onnx import AttributeProto, helper

from lpcompile.errors import PassError
from lpcompile.ir.attributes import Attributes, encode


@pytest.mark.parametrize(
    "value",
    [3, -1.5, "text", b"\xff\x00", [1, 2], [0.5, 1.5], ["a", "b"]],
)
def test_values_come_back(value: object) -> None:
    attrs = Attributes("Thing", "own")
    attrs["k"] = value
    assert attrs["k"] == value
    assert type(attrs["k"]) is type(value)
    assert helper.get_attribute_value(attrs.protos()[0]) in (
        value,
        *([value.encode()] if isinstance(value, str) else []),
        *([[v.encode() for v in value]] if value == ["a", "b"] else []),
    )


def test_tensors_and_numpy_scalars() -> None:
    attrs = Attributes("Thing", "own")
    array = np.arange(6, dtype=np.int8).reshape(2, 3)
    attrs["t"], attrs["i"], attrs["f"], attrs["l"] = (
        array,
        np.int64(4),
        np.float32(0.5),
        [np.int32(1), np.int32(2)],
    )
    np.testing.assert_array_equal(attrs["t"], array)
    assert (attrs["i"], attrs["f"], attrs["l"]) == (4, 0.5, [1, 2])
    proto = next(p for p in attrs.protos() if p.name == "t")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(proto.t), array)


def test_the_schema_decides_the_type() -> None:
    softmax = Attributes("Softmax", "")
    softmax["axis"] = np.int64(2)
    assert softmax.protos()[0].type == AttributeProto.INT
    elu = Attributes("Elu", "")
    elu["alpha"] = 1
    assert elu.protos()[0].type == AttributeProto.FLOAT
    conv = Attributes("Conv", "")
    conv["pads"] = np.array([1, 1, 1, 1])
    assert conv["pads"] == [1, 1, 1, 1]
    conv["strides"] = []
    assert conv.protos()[1].type == AttributeProto.INTS


def test_a_list_read_is_a_fresh_one_and_copies_are_apart() -> None:
    attrs = Attributes("Conv", "")
    attrs["pads"] = [1, 2]
    attrs["pads"].append(3)
    assert attrs["pads"] == [1, 2]
    twin = attrs.copy()
    twin["pads"] = [5]
    del twin["pads"]
    assert dict(attrs) == {"pads": [1, 2]}
    assert not twin


def test_references_and_types_stay_as_they_are() -> None:
    proto = AttributeProto(name="k", type=AttributeProto.INT, ref_attr_name="outer")
    attrs = Attributes("Thing", "own", {"k": proto})
    attrs["other"] = attrs["k"]
    assert attrs.protos()[1].ref_attr_name == "outer"
    assert attrs.protos()[1].name == "other"


def test_what_no_attribute_can_hold() -> None:
    with pytest.raises(PassError, match="cannot hold"):
        encode("k", object())
