"""Whether the stages of a program connect its inputs to its outputs."""

from lpcompile.backends.cim.program import DeviceStage, HostStage, Interface, Port, Program, Space
from lpcompile.backends.cim.program_limits import MOST_ELEMENTS, check_name, check_range, extent, refuse
from lpcompile.ir.dtypes import ONNX_OF_NUMPY

NUMPY_NAMES = {"u8": "uint8", "i32": "int32"}
MOST_RANK = 16
ELEMENT_TYPES = frozenset(map(str, ONNX_OF_NUMPY))
UNKNOWN = "None"  # of an output that the host makes


def check_interface(program: Program) -> None:
    """Check inputs, outputs, stages and ports.

    Raises:
        ProgramError: a tensor is used before it is there, made twice or of another type than it is used as; a port
            does not agree with its descriptor; run streams are not used once each.
    """
    known: dict[str, tuple[str | None, tuple[int | str | None, ...] | None]] = {}
    for tensor in program.inputs:
        _check_tensor(tensor, "inputs")
        if tensor.name in known:
            refuse(f"'{tensor.name}' stands there twice", "inputs")
        known[tensor.name] = tensor.dtype, tensor.shape
    indices = [stage.index for stage in program.stages if isinstance(stage, DeviceStage)]
    if sorted(indices) != list(range(len(indices))):
        refuse("the device stages do not use every run stream once", "stages")
    for number, stage in enumerate(program.stages):
        where = f"stage {number}"
        if isinstance(stage, HostStage):
            _check_host(stage, where)
            needed: list[tuple[str, Port | None]] = [(name, None) for name in stage.inputs]
            made: list[tuple[str, Port | None]] = [(name, None) for name in stage.outputs]
        else:
            needed = [(port.name, port) for port in stage.inputs]
            made = [(port.name, port) for port in stage.outputs]
        for name, port in (*needed, *made):
            check_name(name, where)
            if port is not None:
                _check_port(port, program, f"{where}, port '{name}'")
        for name, port in needed:
            if name not in known:
                refuse(f"'{name}' is neither an input nor made by an earlier stage", where)
            _check_use(*known[name], port, f"{where}, port '{name}'")
        for name, port in made:
            if name in known:
                refuse(f"'{name}' is made twice", where)
            known[name] = (None, None) if port is None else (NUMPY_NAMES[port.dtype], port.shape)
    for tensor in program.outputs:
        _check_tensor(tensor, "outputs")
        if tensor.name not in known:
            refuse(f"no stage makes '{tensor.name}'", "outputs")
        dtype, shape = known[tensor.name]
        if dtype not in {None, tensor.dtype} or not _same_shape(shape, tensor.shape):
            refuse(f"'{tensor.name}' is made with another type or shape", "outputs")


def _check_tensor(tensor: Interface, where: str) -> None:
    check_name(tensor.name, where)
    if tensor.dtype not in ELEMENT_TYPES and (tensor.dtype != UNKNOWN or where == "inputs"):
        refuse(f"'{tensor.name}' has no element type", where)
    check_range(len(tensor.shape), 0, MOST_RANK, f"rank of '{tensor.name}'", where)
    for dim in tensor.shape:
        if isinstance(dim, str):
            check_name(dim, where)
        elif dim is not None:
            check_range(dim, 0, MOST_ELEMENTS, f"size of '{tensor.name}'", where)


def _check_host(stage: HostStage, where: str) -> None:
    for node, reason in stage.reasons.items():
        check_name(node, where, empty=True)
        check_name(reason, where, empty=True)


def _check_port(port: Port, program: Program, where: str) -> None:
    if port.dtype not in NUMPY_NAMES:
        refuse(f"unknown dtype '{port.dtype}'", where)
    check_range(len(port.shape), 0, MOST_RANK, "rank", where)
    for n in port.shape:
        check_range(n, 1, MOST_ELEMENTS, "size", where)
    check_range(port.descriptor, 0, len(program.descriptors) - 1, "descriptor", where)
    descriptor = program.descriptors[port.descriptor]
    if descriptor.space is not Space.DRAM or descriptor.dtype != port.dtype:
        refuse(f"descriptor {port.descriptor} is {descriptor.dtype} in {descriptor.space}", where)
    if port.batch_axis and port.shape[:1] != (1,):
        refuse("the batch axis of one sample is 1", where)
    counts = port.shape[1:] if port.batch_axis else port.shape
    if descriptor.counts != counts:
        refuse(f"descriptor {port.descriptor} has counts {descriptor.counts}, not {counts}", where)
    if extent(descriptor)[1] > program.dram_bytes:
        refuse(f"descriptor {port.descriptor} reaches beyond the DRAM image", where)


def _check_use(
    dtype: str | None, shape: tuple[int | str | None, ...] | None, port: Port | None, where: str
) -> None:
    if port is None:
        return
    if dtype not in {None, NUMPY_NAMES[port.dtype]}:
        refuse(f"takes {NUMPY_NAMES[port.dtype]}, but the tensor is {dtype}", where)
    if not _same_shape(shape, port.shape):
        refuse(f"takes shape {port.shape}, but the tensor is {shape}", where)


def _same_shape(a: tuple[int | str | None, ...] | None, b: tuple[int | str | None, ...]) -> bool:
    """Whether two shapes agree as far as they are known."""
    if a is None:
        return True
    pairs = zip(a, b, strict=False)
    return len(a) == len(b) and all(m == n for m, n in pairs if isinstance(m, int) and isinstance(n, int))
