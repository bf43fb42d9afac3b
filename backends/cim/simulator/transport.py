"""Copies between memories (LD, ST, MOV, VTR) and messages between cores (SEND, RECV)."""

from collections import deque
from typing import Any

from numpy.typing import NDArray

from lpcompile.backends.cim.program import Space
from lpcompile.backends.cim.simulator.context import Context, Effect
from lpcompile.backends.cim.simulator.streams import Operation
from lpcompile.backends.cim.simulator.timing import Work
from lpcompile.backends.cim.simulator.vector import equal_counts, work_of

_SHARED = (Space.DRAM, Space.GB)


def copy(context: Context, operation: Operation) -> Effect:
    """LD, ST, MOV or VTR d, s."""
    d, result = context.write(operation, operation.instruction.a)
    s, source = context.read(operation, operation.instruction.b)
    _ways(operation, d.descriptor.space, s.descriptor.space)
    equal_counts(operation, d, s)
    if d.descriptor.dtype != s.descriptor.dtype:
        raise operation.fault(f"a copy does not turn {s.descriptor.dtype} into {d.descriptor.dtype}")
    apart = d.descriptor.space != s.descriptor.space or d.low >= s.high or s.low >= d.high
    work = work_of(operation, d)

    def effect() -> Work:
        result[...] = source if apart else source.copy()
        return work

    return effect


def _ways(operation: Operation, to: Space, source: Space) -> None:
    mnemonic = operation.instruction.mnemonic
    allowed = {
        "LD": to == Space.LB and source in _SHARED,
        "ST": to in _SHARED and source == Space.LB,
        "MOV": to in _SHARED or source in _SHARED,
        "VTR": to == source == Space.LB,
    }[mnemonic]
    if not allowed:
        raise operation.fault(f"{mnemonic} does not copy from {source} to {to}")


class Messages:
    """What was sent and not yet received."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._waiting: dict[tuple[int, int, int], deque[tuple[str, NDArray[Any]]]] = {}
        self._bytes = 0

    def arrived(self, operation: Operation) -> bool:
        """Whether the message that a RECV waits for is there."""
        return bool(self._waiting.get(self._key(operation)))

    def left(self) -> list[tuple[int, int, int]]:
        """(sender, receiver, tag) of messages that nobody received."""
        return [key for key, queue in self._waiting.items() if queue]

    def clear(self) -> None:
        """Forget all messages."""
        self._waiting.clear()
        self._bytes = 0

    def send(self, operation: Operation) -> tuple[Effect, Effect]:
        """SEND s, #core, #tag: what happens at its start, and what at its end."""
        s, source = self.context.read(operation, operation.instruction.a)
        if s.descriptor.window is not None:
            raise operation.fault("a message has no window")
        if not 0 <= operation.instruction.b < len(self.context.program.cores):
            raise operation.fault(f"there is no core {operation.instruction.b}")
        key = (operation.core, operation.instruction.b, operation.instruction.c)
        work = Work(s.elements, s.elements * s.item_bytes, indices=operation.indices)
        taken: list[NDArray[Any]] = []

        def start() -> Work:
            self._bytes += work.bytes
            if self._bytes > self.context.limits.message_bytes:
                raise operation.fault(
                    f"more than {self.context.limits.message_bytes} bytes sent and not received"
                )
            taken.append(source.flatten())
            return work

        def end() -> Work:
            self._waiting.setdefault(key, deque()).append((s.descriptor.dtype, taken.pop()))
            return work

        return start, end

    def receive(self, operation: Operation) -> Effect:
        """RECV d, #core, #tag; the message is there."""
        d, result = self.context.write(operation, operation.instruction.a)
        if d.descriptor.window is not None:
            raise operation.fault("a message has no window")
        key = self._key(operation)
        work = work_of(operation, d)

        def effect() -> Work:
            dtype, values = self._waiting[key].popleft()
            if dtype != d.descriptor.dtype or values.size != d.elements:
                raise operation.fault(
                    f"the message has {values.size} {dtype}, the destination {d.elements} {d.descriptor.dtype}"
                )
            self._bytes -= work.bytes
            result[...] = values.reshape(result.shape)
            return work

        return effect

    @staticmethod
    def _key(operation: Operation) -> tuple[int, int, int]:
        return operation.instruction.b, operation.core, operation.instruction.c
