"""One step of an RNN, a GRU and an LSTM as elementary operators. [ONNX operators; gates in its order: zrh, iofc]."""

from collections.abc import Mapping

from lpcompile.autodiff.rules.unrolled import Unroller
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

State = tuple[Value | None, Value | None]  # hidden state and memory, None for zeros
Step = tuple[Value, Value | None]
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
# activation -> the operator, and its attributes with the defaults of alpha and beta
_PLAIN = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
}
_SCALED: Mapping[str, tuple[str, dict[str, float]]] = {
    "leakyrelu": ("LeakyRelu", {"alpha": 0.01}),
    "thresholdedrelu": ("ThresholdedRelu", {"alpha": 1.0}),
    "elu": ("Elu", {"alpha": 1.0}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "scaledtanh": ("ScaledTanh", {"alpha": 1.0, "beta": 1.0}),
    "affine": ("Affine", {"alpha": 1.0, "beta": 0.0}),
}


class Cell:
    """One direction of a recurrent layer.

    Args:
        u: adds the nodes.
        node: the layer.
        way: index of the direction.
        ways: number of directions.
        weight: (gates hidden, inputs).
        recurrence: (gates hidden, hidden).
        bias: (2 gates hidden): of the data, then of the state.
        peephole: (3 hidden), gates iof.
    """

    gates = 1

    def __init__(
        self,
        u: Unroller,
        node: Node,
        way: int,
        ways: int,
        *,
        weight: Value,
        recurrence: Value,
        bias: Value | None,
        peephole: Value | None,
    ) -> None:
        self._u, self._node = u, node
        self._weight, self._recurrence = weight, recurrence
        width = self.gates * u.hidden
        halves: list[Value | None] = [None, None]
        halves = halves if bias is None else [*u.split(bias, 0, [width, width])]
        self._data_bias, self._state_bias = halves
        self._peepholes = [] if peephole is None else u.split(peephole, 0, [u.hidden] * 3)
        self._activations = _activations(node, way, ways)

    def projected(self, x: Value) -> Value:
        """What the data give to the gates of every step, (steps, batch, gates hidden), with their bias."""
        made = self._u.times_transposed(x, self._weight)
        return made if self._data_bias is None else self._u.add(made, self._data_bias)

    def step(self, data: Value, state: State) -> Step:
        """The state after one step."""
        hidden = self._recurred(state[0], self._recurrence, self._state_bias)
        return self._activated(0, data if hidden is None else self._u.add(data, hidden)), None

    def _recurred(self, hidden: Value | None, recurrence: Value, bias: Value | None) -> Value | None:
        if hidden is None:
            return bias
        made = self._u.times_transposed(hidden, recurrence)
        return made if bias is None else self._u.add(made, bias)

    def _activated(self, which: int, x: Value) -> Value:
        u, (op, attrs) = self._u, self._activations[which]
        clip = float(self._node.attrs.get("clip", 0.0))
        shape = x.shape or ()
        if clip > 0:
            x = u.made("Clip", x, u.number(-clip), u.number(clip), shape=shape)
        if op == "Affine":
            return u.add(u.mul(x, u.number(attrs["alpha"])), u.number(attrs["beta"]))
        if op == "ScaledTanh":
            inner = u.made("Tanh", u.mul(x, u.number(attrs["beta"])), shape=shape)
            return u.mul(inner, u.number(attrs["alpha"]))
        return u.made(op, x, shape=shape, **attrs)

    def _gates(self, x: Value, count: int) -> list[Value]:
        return self._u.split(x, len(x.shape or ()) - 1, [self._u.hidden] * count)


class Gru(Cell):
    """Gates: update z, reset r, candidate h."""

    gates = 3

    def step(self, data: Value, state: State) -> Step:
        """H = (1 - z) h + z H'."""
        u, hidden = self._u, state[0]
        update, reset, own = self._gates(data, 3)
        recurrences = u.split(self._recurrence, 0, [u.hidden] * 3)
        biases: list[Value | None] = [None] * 3
        if self._state_bias is not None:
            biases = [*u.split(self._state_bias, 0, [u.hidden] * 3)]
        from_state = [self._recurred(hidden, r, c) for r, c in zip(recurrences[:2], biases[:2], strict=True)]
        z, r = (
            self._activated(0, a if s is None else u.add(a, s))
            for a, s in zip((update, reset), from_state, strict=True)
        )
        if int(self._node.attrs.get("linear_before_reset", 0)):
            inner = self._recurred(hidden, recurrences[2], biases[2])
            inner = None if inner is None else u.mul(r, inner)
        else:
            inner = self._recurred(None if hidden is None else u.mul(r, hidden), recurrences[2], biases[2])
        candidate = self._activated(1, own if inner is None else u.add(own, inner))
        made = u.mul(u.one_minus(z), candidate)
        return made if hidden is None else u.add(made, u.mul(z, hidden)), None


class Lstm(Cell):
    """Gates: input i, output o, forget f, cell c; peepholes i, o, f."""

    gates = 4

    def step(self, data: Value, state: State) -> Step:
        """C = f C' + i c; H = o h(C)."""
        u, (hidden, memory) = self._u, state
        inner = self._recurred(hidden, self._recurrence, self._state_bias)
        i, o, f, c = self._gates(data if inner is None else u.add(data, inner), 4)
        entry = self._activated(0, self._peeped(i, 0, memory))
        made = u.mul(entry, self._activated(1, c))
        if memory is not None:
            coupled = int(self._node.attrs.get("input_forget", 0))
            kept = u.one_minus(entry) if coupled else self._activated(0, self._peeped(f, 2, memory))
            made = u.add(made, u.mul(kept, memory))
        out = self._activated(0, self._peeped(o, 1, made))
        return u.mul(out, self._activated(2, made)), made

    def _peeped(self, gate: Value, which: int, memory: Value | None) -> Value:
        if memory is None or not self._peepholes:
            return gate
        return self._u.add(gate, self._u.mul(memory, self._peepholes[which]))


CELLS: Mapping[str, type[Cell]] = {"RNN": Cell, "GRU": Gru, "LSTM": Lstm}


def _activations(node: Node, way: int, ways: int) -> list[tuple[str, dict[str, float]]]:
    """The activations of one direction, each with its attributes.

    Raises:
        GradientError: one that is not known.
    """
    count = len(_DEFAULTS[node.op])
    names = [str(a) for a in node.attrs.get("activations") or _DEFAULTS[node.op] * ways]
    alphas = [float(a) for a in node.attrs.get("activation_alpha") or []]
    betas = [float(a) for a in node.attrs.get("activation_beta") or []]
    found: list[tuple[str, dict[str, float]]] = []
    for name in names:  # those with parameters take them from the lists in turn
        key = name.lower()
        if key in _PLAIN:
            found.append((_PLAIN[key], {}))
        elif key in _SCALED:
            op, attrs = _SCALED[key]
            given = {"alpha": alphas, "beta": betas}
            found.append((op, {k: given[k].pop(0) if given[k] else v for k, v in attrs.items()}))
        else:
            raise GradientError(
                f"{node.op} with the activation {name} has no gradient",
                where=node.name,
                hint="sensitivity can be measured forward only (--metric measured)",
            )
    return found[way * count : (way + 1) * count]
