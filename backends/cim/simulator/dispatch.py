"""From a mnemonic to what it does."""

from collections.abc import Callable

from lpcompile.backends.cim.simulator import dense, requantise, vector
from lpcompile.backends.cim.simulator.arrays import Arrays
from lpcompile.backends.cim.simulator.context import Context, Effect
from lpcompile.backends.cim.simulator.streams import Operation
from lpcompile.backends.cim.simulator.timing import Work
from lpcompile.backends.cim.simulator.transport import Messages, copy

_VECTOR: dict[str, Callable[[Context, Operation], Effect]] = {
    "FILL": vector.fill,
    "ACC": vector.accumulate,
    "VOP": vector.elementwise,
    "VRQ": requantise.requantise,
    "VADDQ": requantise.requantised_sum,
    "VLUT": vector.look_up,
    "VRED": vector.reduce,
    "VPOOL": vector.pool,
    "VDW": dense.depthwise,
    "VMM": dense.dense,
    "VCVT": vector.convert,
    "LD": copy,
    "ST": copy,
    "MOV": copy,
    "VTR": copy,
}
_ORDERING = ("SIG", "WAIT", "BAR")  # what they do stands in the queues


class Dispatch:
    """Binds operations to the state that they change; a binding is made once and used for every sample."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.arrays = Arrays(context)
        self.messages = Messages(context)
        self._ends: dict[Operation, Effect] = {}

    def bind(self, operation: Operation) -> Effect:
        """What an operation does at its start, to be called as often as it is executed; SIG, WAIT and BAR do nothing.

        Raises:
            ProgramError: its operands are wrong. Calling it raises where its result does not fit.
        """
        mnemonic = operation.instruction.mnemonic
        if mnemonic in _VECTOR:
            return _VECTOR[mnemonic](self.context, operation)
        if mnemonic in ("MVM", "MVMP"):
            return self.arrays.multiply(operation)
        if mnemonic == "WPROG":
            return self.arrays.program(operation)
        if mnemonic == "WPAGE":
            return self.arrays.page(operation)
        if mnemonic == "SEND":
            start, self._ends[operation] = self.messages.send(operation)
            return start
        if mnemonic == "RECV":
            return self.messages.receive(operation)
        if mnemonic not in _ORDERING:
            raise operation.fault(f"the simulator does not know {mnemonic}")
        if mnemonic == "SIG" and not 0 <= operation.instruction.b < len(self.context.program.cores):
            raise operation.fault(f"there is no core {operation.instruction.b}")
        work = Work(indices=operation.indices)
        return lambda: work

    def arrive(self, operation: Operation) -> None:
        """The message of a SEND arrives: it was on its way until the end of the SEND."""
        self._ends[operation]()
