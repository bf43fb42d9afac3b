"""From the integer reference graph to a program. [cim-machine 2].

Stages (machine, host) -> work on views -> fused layers -> pieces, copies, segments -> addresses -> strips in program
order -> streams with events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from onnx import ModelProto

from lpcompile.backends.cim.allocate import Live, allocate
from lpcompile.backends.cim.batch_axis import mixed_tensors
from lpcompile.backends.cim.device_stage import DeviceWork, port, read_stage
from lpcompile.backends.cim.digital_int8 import DigitalLayer
from lpcompile.backends.cim.digital_layers import digital_layers
from lpcompile.backends.cim.geometry import Geometry
from lpcompile.backends.cim.grouped import decide
from lpcompile.backends.cim.lower_dense import Share, layout
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.memory import Addresses, Place
from lpcompile.backends.cim.pieces import Cut, Groups, cut
from lpcompile.backends.cim.placement import Placement, fits, place
from lpcompile.backends.cim.program import (
    CoreCode,
    DeviceStage,
    HostStage,
    Instruction,
    Interface,
    Program,
    Space,
)
from lpcompile.backends.cim.reading import device_reason
from lpcompile.backends.cim.stage_writer import Shares, write_stage
from lpcompile.backends.cim.stages import host_model, split
from lpcompile.backends.cim.streams import CONST_BUFFER, Streams
from lpcompile.backends.cim.tables import Tables
from lpcompile.backends.cim.work import Dense, Depthwise, Grouped, Work, reads
from lpcompile.backends.cim.writer import Writer
from lpcompile.errors import CapacityError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.quant.dyadic_numbers import DyadicNumbers

ALIGN = 64
CONST_SHARE = 4  # at most this part of the global buffer holds constants
CONSTS = "constants"


@dataclass
class Lowered:
    """A program and what is known of it.

    Attributes:
        program: it.
        host: node -> why the machine does not do it, nodes that only feed it or read it included.
        placement: pieces and segments of the matrix layers.
        spilled: bytes of activations that found no room in the global buffer.
        layers: what a conventional accelerator would do for each layer.
        copies: by node, how often its weights are there; of a grouped layer's matrices the least.
    """

    program: Program
    host: dict[str, str]
    placement: Placement
    spilled: int
    layers: list[DigitalLayer] = field(default_factory=list)
    copies: dict[str, int] = field(default_factory=dict)


def lower(
    reference: LpGraph,
    numbers: DyadicNumbers,
    machine: MachineDescription,
    host: Sequence[str] = (),
) -> Lowered:
    """Lower a reference graph to a program for a machine.

    A layer of which not even one output position fits the local buffer runs on the host.

    Args:
        reference: one `lpcompile` call a node; shapes known but for a symbolic batch.
        numbers: its integers.
        machine: to run it.
        host: nodes to keep on the host.

    Raises:
        CapacityError: the program has more descriptors, groups or requantisations than an instruction can name.
    """
    unfit: dict[str, str] = {}
    while True:  # each turn takes one node off the machine
        try:
            return _Lowering(reference, numbers, machine, host, unfit).run()
        except CapacityError as error:
            if error.where is None or error.where in unfit:
                raise
            unfit[error.where] = error.message


class _Lowering:
    def __init__(
        self,
        reference: LpGraph,
        numbers: DyadicNumbers,
        machine: MachineDescription,
        host: Sequence[str],
        unfit: Mapping[str, str],
    ) -> None:
        self.graph, self.numbers, self.machine = reference, numbers, machine
        self.host, self.unfit = frozenset(host), unfit
        self.g = Geometry.of(machine)
        self.tables = Tables()
        self.nodes: dict[str, Node] = {n.name: n for n in reference.nodes()}
        self.proto: ModelProto = reference.to_proto()
        self.room = self.g.gb_bytes  # of the global buffer, for activations
        self.consts: tuple[Space, int] = (Space.DRAM, 0)
        self.earlier: dict[int, tuple[int, ...]] = {}  # of the stage at hand

    def run(self) -> Lowered:
        mixed = mixed_tensors(self.graph.nodes())
        stages = split(
            self.proto,
            self.nodes,
            lambda n: self.unfit.get(n.name) or device_reason(n, self.numbers, self.host, mixed),
        )
        devices = [read_stage(self.graph, self.numbers, s) if s.device else None for s in stages]
        self._decide_grouped([d for d in devices if d is not None])
        dense = [w for d in devices if d is not None for w in d.work if isinstance(w, Dense)]
        cuts = [cut(w, self.g) for w in dense]
        placement = place(dense, cuts, self.g)
        depthwise = self._plan_depthwise([d for d in devices if d is not None])
        boot = Streams(self.g.cores, self.tables)
        shares = Shares(self._shares(dense, cuts, placement, boot), depthwise, placement.resident)
        for side in (work.side for work in dense if work.side is not None):
            for factor in (side.first, side.second):
                self.tables.const(factor.tobytes())
        self._hold_consts(boot)
        base = -(-len(self.tables.consts) // ALIGN) * ALIGN
        code: list[list[tuple[Instruction, ...]]] = [[] for _ in range(self.g.cores)]
        built: list[HostStage | DeviceStage] = []
        spilled = dram = 0
        for stage, device in zip(stages, devices, strict=True):
            if device is None:
                model = host_model(self.proto, stage)
                reasons = MappingProxyType(stage.reasons)
                built.append(HostStage(model, tuple(stage.inputs), tuple(stage.outputs), reasons))
                continue
            streams = Streams(self.g.cores, self.tables)
            at, end, spill = self._addresses(device, base)
            dram, spilled = max(dram, end), spilled + spill
            w = Writer(self.tables, streams)
            write_stage(device.work, w, at, shares, self.g.lb_bytes, self.earlier)
            for core in range(self.g.cores):
                code[core].append(streams.code(core))
            index = sum(isinstance(s, DeviceStage) for s in built)
            ports = [
                [port(self.tables, v, view, at) for v, view in io] for io in (device.inputs, device.outputs)
            ]
            built.append(DeviceStage(index, tuple(ports[0]), tuple(ports[1])))
        t = self.tables
        program = Program(
            self.machine.name,
            self.machine.sha256,
            tuple(CoreCode(boot.code(core), tuple(code[core])) for core in range(self.g.cores)),
            tuple(t.descriptors.entries),
            tuple(t.groups.entries),
            tuple(t.plane_sets.entries),
            tuple(t.requants.entries),
            tuple(t.luts.entries),
            bytes(t.weights),
            bytes(t.consts),
            max(dram, base),
            tuple(built),
            tuple(_interface(v) for v in self.graph.inputs),
            tuple(_interface(v) for v in self.graph.outputs),
            tuple(t.nodes.entries),
        )
        reasons_of = {n: r for s in stages for n, r in s.reasons.items()}
        layers = digital_layers(w for d in devices if d is not None for w in d.work)
        copies: dict[str, int] = {}
        for work, pieces in zip(dense, placement.pieces, strict=True):
            copies[work.name] = min(pieces[0].copies, copies.get(work.name, pieces[0].copies))
        return Lowered(program, reasons_of, placement, spilled, layers, copies)

    # planning

    def _decide_grouped(self, devices: Sequence[DeviceWork]) -> None:
        """Put what grouped layers become in their place."""
        grouped = [w for d in devices for w in d.work if isinstance(w, Grouped)]
        dense = [cut(w, self.g) for d in devices for w in d.work if isinstance(w, Dense)]
        found = iter(
            decide(
                self.machine,
                self.g,
                grouped,
                lambda more: fits([*dense, *(cut(w, self.g) for w in more)], self.g),
            )
        )
        for device in devices:
            work: list[Work] = []
            for item in device.work:
                became = next(found) if isinstance(item, Grouped) else item
                work += became if isinstance(became, list) else [became]
            device.work = work

    def _plan_depthwise(self, devices: Sequence[DeviceWork]) -> dict[int, list[tuple[int, int]]]:
        """Output ranges of depthwise layers that fit a local buffer; their weights go to DRAM."""
        found = {}
        for work in (w for d in devices for w in d.work if isinstance(w, Depthwise)):
            mult = work.weights.shape[2]
            channels = work.weights.shape[1]
            parts = 1
            while True:
                each = -(-channels // parts)
                try:
                    layout(work, each * mult, self.g.lb_bytes, 1)
                    break
                except CapacityError:
                    if each == 1:
                        raise
                    parts += 1
            ranges = [(c * mult, min(c + each, channels) * mult) for c in range(0, channels, each)]
            for a, b in ranges:
                self.tables.const(work.weights[:, a // mult : b // mult].tobytes())
            found[id(work)] = ranges
        return found

    def _shares(
        self, dense: Sequence[Dense], cuts: Sequence[Cut], placement: Placement, boot: Streams
    ) -> dict[int, list[list[Share]]]:
        """What each core does of each matrix layer, by wave; groups are stored once for all copies."""
        writer = Writer(self.tables, boot)
        stored = Groups(self.tables, self.g)
        found: dict[int, list[list[Share]]] = {}
        for work, how, pieces in zip(dense, cuts, placement.pieces, strict=True):
            waves: dict[int, list[Share]] = {}
            for p in pieces:
                groups = stored.of(work, how, p.columns, p.slot)
                rounds = len(groups) > 1
                waves.setdefault(p.wave, []).append(
                    Share(p.slot.core, p.columns, tuple(groups), rounds, p.copy, p.copies)
                )
                if placement.resident and not rounds:
                    writer.node = work.name
                    writer.wprog(p.slot.core, groups[0], p.slot.page0)
            found[id(work)] = [waves[w] for w in sorted(waves)]
        return found

    def _addresses(self, device: DeviceWork, base: int) -> tuple[Addresses, int, int]:
        """Ports and spilled tensors in DRAM from `base` on, the rest in the global buffer."""
        sizes, ports = device.values.buffers.sizes, device.values.buffers.ports
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for step, work in enumerate(device.work):
            for view in (*reads(work), work.out):
                first.setdefault(view.buffer, step)
                last[view.buffer] = step
        lives = [Live(b, sizes[b], first[b], last[b]) for b in first if b not in ports]
        placed, left = allocate(lives, self.room)
        found: dict[int, tuple[Space, int]] = {b: (Space.GB, p.address) for b, p in placed.items()}
        self.earlier = {buffer: p.earlier for buffer, p in placed.items()}
        at = base
        for buffer in (*sorted(ports), *left):
            found[buffer] = (Space.DRAM, at)
            at += -(-max(1, sizes[buffer]) // ALIGN) * ALIGN
        return Addresses(found, self.consts), at, sum(sizes[b] for b in left)

    def _hold_consts(self, boot: Streams) -> None:
        """Weights of the hp unit, depthwise ones and factors, go to the end of the global buffer at boot.

        Unless they are a large part of it.
        """
        size = len(self.tables.consts)
        if not 0 < size <= self.g.gb_bytes // CONST_SHARE:
            return
        self.room = (self.g.gb_bytes - size) // ALIGN * ALIGN
        self.consts = (Space.GB, self.room)
        w = Writer(self.tables, boot)
        w.node = CONSTS
        source = Place(Space.DRAM, "i8", 0, (size,), (1,), CONST_BUFFER)
        w.copy(0, "MOV", replace(source, space=Space.GB, base=self.room), source)


def _interface(value: Value) -> Interface:
    shape = tuple(value.shape or ())
    return Interface(value.name, str(value.dtype), shape)
