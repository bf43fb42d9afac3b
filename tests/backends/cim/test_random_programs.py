"""Random programs on random data: simulator, simulator plane by plane, interpreter in a random order, all equal."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Instruction, Space
from lpcompile.backends.cim.proofs import prove
from tests.backends.cim.build import TWOS4, TWOS8, Builder, capacities, op, window
from tests.backends.cim.running import interpret, simulate

POSIT4 = (1, 2, 4, 8, 16, -32)
FULL, INIT = 1 << 15, 1
NUMPY: dict[str, Any] = {"u8": np.uint8, "i8": np.int8, "i16": np.int16, "i32": np.int32}
QUEUE = {"MVM": 0, "MVMP": 0, "LD": 2, "ST": 2, "MOV": 2, "SEND": 3, "RECV": 3}


@dataclass
class Writer:
    """Adds random instructions, each ordered after the one before by BAR or by an event."""

    rng: np.random.Generator
    b: Builder
    core: int = 0
    last: int = -1  # queue of the instruction before, -1 where a BAR follows it
    tensors: list[int] = field(default_factory=list)  # descriptors of local tensors

    def pick(self, *items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def emit(self, word: Instruction, repeats: int = 0) -> None:
        """Add an instruction, in a REPEAT of its own where `repeats` is not 0."""
        stream = self.b.run[self.core]
        queue = QUEUE.get(word.mnemonic, 1)
        if self.last >= 0 and (self.last != queue or self.rng.random() < 0.2):
            if self.rng.random() < 0.5:
                event = 4 * self.last + queue
                stream += [op("SIG", event, self.core, unit=self.last), op("WAIT", event, 1, unit=queue)]
            else:
                stream.append(op("BAR"))
        stream += [op("REPEAT", repeats, 1), word] if repeats else [word]
        self.last = queue

    def tensor(self, *dtypes: str) -> int:
        found = [t for t in self.tensors if self.b.descriptors[t].dtype in dtypes]
        return found[int(self.rng.integers(len(found)))]

    def made(self, number: int) -> int:
        self.tensors.append(number)
        return number

    def step(self) -> None:
        getattr(
            self,
            self.pick(
                "mvm",
                "mvm",
                "mvm",
                "requantise",
                "elementwise",
                "reduce",
                "pool",
                "hp",
                "send",
                "convert",
                "look",
            ),
        )()

    def source(self, *dtypes: str) -> tuple[int, tuple[int, ...], int]:
        """A source that may have a window; its descriptor, counts of positions, rows."""
        number = self.tensor(*dtypes)
        counts = self.b.descriptors[number].counts
        if len(counts) < 2 or self.rng.random() < 0.3:
            return self.b.again(number), counts[:-1], counts[-1]
        axes = int(self.rng.integers(1, len(counts)))
        spatial = counts[-1 - axes : -1]
        pads = self.rng.integers(0, 2, 2 * axes).tolist()
        kernel = [int(self.rng.integers(1, min(3, n) + 1)) for n in spatial]
        strides = self.rng.integers(1, 3, axes).tolist()
        slid = window(kernel, strides, pads, None, int(self.rng.integers(0, 100)))
        positions = (*counts[: -1 - axes], *slid.out_counts(spatial))
        return self.b.again(number, window=slid), positions, math.prod(kernel) * counts[-1]

    def mvm(self) -> None:
        x, positions, rows = self.source("u8", "i8")
        self.b.descriptors[x] = type(self.b.descriptors[x])(
            **{
                **{n: getattr(self.b.descriptors[x], n) for n in self.b.descriptors[x].__slots__},
                "bits": self.pick(2, 4, 8, 8),
            }
        )
        row0 = int(self.rng.integers(0, rows))
        used = int(self.rng.integers(1, rows - row0 + 1))
        outputs = int(self.rng.integers(1, 5))
        coefficients, low, high = self.pick((TWOS4, -8, 8), (TWOS8, -128, 128), (POSIT4, -32, 32))
        weights = self.rng.integers(low, high, (used, outputs))
        block = int(self.rng.integers(1, 20))
        blocks = -(-used // block)
        multipliers = self.rng.integers(0, 16, (blocks, outputs)) if self.rng.random() < 0.3 else None
        lossless = block <= 15 and self.rng.random() < 0.7
        if self.b.macro + blocks > 500:
            return
        group = self.b.group(
            weights,
            coefficients,
            block,
            row0=row0,
            multipliers=multipliers,
            core=self.core,
            lossless=lossless,
        )
        acc = self.made(self.b.desc((*positions, outputs), "i32"))
        self.emit(op("MVM", group, x, acc, flags=INIT | self.pick(0, 2)))
        if self.rng.random() < 0.4:
            self.emit(op("MVM", group, x, acc, flags=self.pick(0, INIT)), repeats=3)
        if self.rng.random() < 0.3:
            self.emit(op("MVMP", group, x, acc, unit=self.pick(0, 1)))

    def requantise(self) -> None:
        x = self.tensor("i32", "i16", "u8")
        counts = self.b.descriptors[x].counts
        dtype = self.pick("u8", "u8", "i8", "i16", "i32")
        n = self.pick(1, counts[-1])
        low, high = sorted(self.rng.integers(-300, 300, 2).tolist())
        rq = self.b.requant(
            self.rng.integers(-FULL, FULL, n), self.rng.integers(-(1 << 40), 1 << 40, n), self.rng.integers(0, 45, n),
            int(self.rng.integers(-9, 9)), low, high,
        )  # fmt: skip
        y = self.made(self.b.desc(counts, dtype))
        self.emit(op("VRQ", y, x, rq))

    def elementwise(self) -> None:
        x = self.tensor("u8", "i8", "i16", "i32")
        same = [t for t in self.tensors if self.b.descriptors[t].counts == self.b.descriptors[x].counts]
        y = same[int(self.rng.integers(len(same)))]
        counts = self.b.descriptors[x].counts
        if self.rng.random() < 0.4:
            rq = self.b.requant(self.rng.integers(-FULL, FULL, 2), 1 << 12, 13, 1, 0, 255)
            self.emit(op("VADDQ", self.made(self.b.desc(counts, "u8", requant=rq)), x, y))
            return
        d = self.made(self.b.desc(counts, self.pick("u8", "i8", "i16")))
        self.emit(op("VOP", d, self.b.again(x, zero=3), y, unit=int(self.rng.integers(5))))

    def reduce(self) -> None:
        x = self.tensor("u8", "i8")
        counts = self.b.descriptors[x].counts
        if len(counts) > 1:
            self.emit(
                op("VRED", self.made(self.b.desc(counts[:-1], "i32")), x, unit=int(self.rng.integers(3)))
            )

    def pool(self) -> None:
        x, positions, _ = self.source("u8", "i8")
        if self.b.descriptors[x].window is not None:
            unit = self.pick(0, 1)
            dtype = self.b.descriptors[x].dtype if unit == 0 else "i32"
            y = self.made(self.b.desc((*positions, self.b.descriptors[x].counts[-1]), dtype))
            self.emit(op("VPOOL", y, x, unit=unit))

    def hp(self) -> None:
        x, positions, rows = self.source("u8", "i8")
        channels = self.b.descriptors[x].counts[-1]
        w = self.tensor("i8", "u8")
        base = self.b.descriptors[w]
        if self.b.descriptors[x].window is None or self.rng.random() < 0.5:
            weights = self.b.again(w, dtype="i8", dims=((rows, 0), (2, 0)), window=None, bits=8)
            self.emit(op("VMM", self.made(self.b.desc((*positions, 2), "i32")), x, weights, flags=INIT))
            return
        weights = self.b.again(
            w, dtype="i8", dims=((rows // channels, 0), (channels, 0), (2, 0)), window=None
        )
        assert base.dtype in ("i8", "u8")
        y = self.made(self.b.desc((*positions, channels * 2), "i32"))
        self.emit(op("VDW", y, x, weights, flags=INIT))

    def convert(self) -> None:
        x = self.tensor("u8", "i8", "i16", "i32")
        y = self.made(self.b.desc(self.b.descriptors[x].counts, self.pick("u8", "i8", "i16", "i32")))
        self.emit(op("VCVT", y, x))

    def look(self) -> None:
        x = self.tensor("u8")
        self.b.luts.append(self.rng.integers(0, 256, 256).astype(np.uint8).tobytes())
        self.emit(op("VLUT", self.made(self.b.desc(self.b.descriptors[x].counts)), x, len(self.b.luts) - 1))

    def send(self) -> None:
        """A tensor goes to another core through a message or the global buffer, and work goes on there."""
        x = self.tensor("u8", "i8", "i16", "i32")
        d = self.b.descriptors[x]
        other = (self.core + 1) % self.b.cores
        arrived = self.b.desc(d.counts, d.dtype)
        if self.rng.random() < 0.5:
            self.emit(op("SEND", x, other, 5))
            self.b.run[self.core].append(op("BAR"))
            self.core, self.last = other, -1
            self.emit(op("RECV", arrived, (other - 1) % self.b.cores, 5))
        else:
            shared = self.b.desc(d.counts, d.dtype, Space.GB)
            self.emit(op("ST", shared, x))
            self.b.run[self.core] += [op("SIG", 99, other, unit=2), op("BAR")]
            self.core, self.last = other, -1
            self.b.run[other].append(op("WAIT", 99, 1, unit=2))
            self.emit(op("LD", arrived, shared))
        self.b.run[self.core].append(op("BAR"))
        self.last = -1
        self.tensors = [t for t in (arrived,) if d.dtype == "u8"]
        if not self.tensors:  # whatever comes needs bytes
            self.made(arrived)
            small = self.b.desc(d.counts, "u8")
            self.emit(op("VCVT", small, arrived))
            self.made(small)


def random_program(seed: int) -> tuple[Builder, dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(seed)
    b = Builder(cores=int(rng.integers(1, 4)))
    shape = tuple(rng.integers(1, 6, int(rng.integers(1, 5))).tolist())
    writer = Writer(rng, b)
    writer.made(b.feed("x", shape))
    for _ in range(int(rng.integers(1, 9))):
        if sum(math.prod(b.descriptors[t].counts) for t in writer.tensors) > 4000:
            break
        writer.step()
    b.fetch("y", writer.tensors[-1], core=writer.core)
    return b, {"x": rng.integers(0, 256, shape).astype(np.uint8)}


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), st.sampled_from(["clip", "scale"]), st.sampled_from([4, 4, None]))
def test_all_three_agree(seed: int, transfer: str, adc_bits: int | None) -> None:
    b, feeds = random_program(seed)
    machine = capacities(adc_bits=adc_bits, transfer=transfer, macros=1024, lb_bytes=1 << 18)
    program = b.program()
    expected = simulate(program, feeds, machine)["y"]
    rng = np.random.default_rng(seed)
    for found in (
        simulate(program, feeds, machine, planes=True),
        interpret(program, feeds, machine, choose=lambda ready: ready[int(rng.integers(len(ready)))]),
    ):
        np.testing.assert_array_equal(found["y"], expected, strict=True)
    found_proofs = prove(program, machine)
    assert not found_proofs.first.keys() & {"streams", "events", "races"}, str(found_proofs)
