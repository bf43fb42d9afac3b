"""Scale the channels of what matrix products read, where one scale for the tensor loses much of the network.

x W = (x / s)(s W). 1 / s goes into the norm or layer before where that takes it in; elsewhere a multiplication stays,
which a product of many rows hardly feels. The networks that ask for it are transformers with norms after their sums
and a few channels that are many times as wide as the others. [xiao2023; dettmers2022]

What each input loses is measured at the outputs of the network, one input at a time, and inputs that matter are scaled
by the error at the outputs of their readers (`scaling_search`). All is undone where the network does not gain on calls
that chose no factors; with its weights rounded, where these will be of 8 bits (fewer would hide what inputs lose).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.channel_samples import ChannelSample, ChannelSampler
from lpcompile.analysis.grams import THREADS, Grams
from lpcompile.analysis.input_noise import InputNoise, range_plan
from lpcompile.analysis.judged import Judged
from lpcompile.analysis.macs import macs_on
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_bytes, rounded_network
from lpcompile.analysis.scaling_search import CLIPS, Found, search
from lpcompile.formats.arrays import F64
from lpcompile.ir.factor_flow import Part, Side
from lpcompile.ir.factor_rules import LAYERS
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.scaling_groups import ScalingGroup, scaling_groups
from lpcompile.memory import collect_replaced
from lpcompile.passes.channel_affine import ChannelAffine
from lpcompile.passes.constant_inputs import output_at
from lpcompile.passes.equalize_ranges import some_calls
from lpcompile.passes.layer_constants import absorb_before, weight_obstacle
from lpcompile.passes.scaling_folds import fold, fold_obstacle
from lpcompile.passes.scaling_readers import LEVELS, USUAL, group_parts, observed, planned_kernels, reader_of
from lpcompile.passes.smoothing_gain import parted, read_on_integers, spread
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import ActivationOptions, ActivationPlan, Kernel
from lpcompile.records import PassReport

MATRICES = ("Gemm", "MatMul")
ROUNDING = (Kernel.DYNAMIC, Kernel.INTEGER, Kernel.FLOAT_OUT)  # a whole tensor by one scale
FINE = 256  # levels whose whole range is taken
FEW_POSITIONS = 256
MOST_CALLS = 8  # that factors are searched on, evenly spread
SHARES = "it shares its weights with another layer: the file would hold them several times"
MEASURED_CALLS = 2  # of all inputs together; one input alone is measured on the first of them
MOST_MACS = 1e12  # of measuring each input alone; else all are taken to lose alike
LEAST_SHARE = 0.02  # of the noise that is left in the end: what one of them must gain
ENOUGH_DB = 35.0  # networks whose matrix products lose less are left alone
GAIN_DB = 0.5  # of the network, or nothing is done
LITTLE = f"without it, all inputs would lose less than {LEAST_SHARE:.0%} more"
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class SmoothInputs(Pass):
    """Channels scaled before matrix products, by a multiplication where nothing takes the factors in.

    Attributes:
        multiply: put multiplications in; else only what folds is scaled.
    """

    name: ClassVar[str] = "smooth-inputs"
    summary: ClassVar[str] = "channels scaled before matrix products whose inputs lose much by one scale"
    takes: ClassVar[tuple[str, ...]] = (
        "calibration",
        "target",
        "seed",
        "threads",
        "keep_float",
        "followed_by",
    )
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.BATCHNORM_FOLDED})
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.INPUTS_SMOOTHED})
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})

    multiply: bool = True

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Measure, scale and measure again."""
        report = PassReport(self.name)
        if Fact.INPUTS_SMOOTHED in graph.facts or ctx.calibration is None or ctx.observe is None:
            return report
        kernels = planned_kernels(graph, ctx)
        sites = _sites(graph, kernels, report)
        judged = Judged.of(graph)
        if not sites or not judged.names:
            return report
        if ctx.calibration.generated:
            for site in sites:
                report.skip(site.layers[0], "generated inputs say little of single channels")
            return report
        # Where integers fill all between the ends, a float multiplication would leave them.
        multiply = self.multiply and not (ctx.target is not None and ctx.target.rules.fills)
        _Smoothing(graph, ctx, sites, kernels, judged, report).run(multiply=multiply)
        return report


@dataclass(frozen=True, slots=True)
class _Site:
    """A tensor, and the matrix products that read it on integers."""

    tensor: str
    layers: tuple[Node, ...]

    @property
    def names(self) -> list[str]:
        return [n.name for n in self.layers]


def _sites(graph: LpGraph, kernels: Mapping[str, Kernel], report: PassReport) -> list[_Site]:
    found: dict[str, list[Node]] = {}
    for node in graph.layers():
        x, weight = node.inputs[:2]
        suits = node.op in MATRICES and kernels.get(node.name) in ROUNDING and not node.attrs.get("transA", 0)
        if not suits or x is None or weight is None or not x.shape or len(weight.dims) != 2:
            continue
        if len(weight.consumers) > 1:
            report.skip(node, SHARES)
        elif not weight_obstacle(node):
            found.setdefault(x.name, []).append(node)
    return [_Site(name, tuple(layers)) for name, layers in found.items()]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Factors of one input: of each channel (K,), and what is kept of the noise of rounding it."""

    found: Found
    by_channel: F64
    kept: float


class _Smoothing:
    def __init__(
        self,
        graph: LpGraph,
        ctx: PassContext,
        sites: list[_Site],
        kernels: Mapping[str, Kernel],
        judged: Judged,
        report: PassReport,
    ) -> None:
        assert ctx.calibration is not None
        assert ctx.observe is not None
        self.graph, self.ctx, self.report, self.observe = graph, ctx, report, ctx.observe
        searched, self.judging = parted(ctx.calibration.deciding)
        self.sites, self.calls = sites, some_calls(graph, searched, MOST_CALLS)
        self.kernels, self.judged = kernels, judged
        self.levels = LEVELS[(ctx.activations or ActivationOptions()).format]
        self.judge = self._judge(spread(self.calls, MEASURED_CALLS))

    def run(self, *, multiply: bool) -> None:
        """All of it."""
        known = scaling_groups(self.graph)[0]
        free = {s.tensor: g for s in self.sites if (g := _foldable(known, s)) is not None}
        samples = self._samples()
        wild = [s for s in self.sites if s.tensor not in samples]
        self._skip(wild, "its input is not finite on the samples")
        self.sites = [s for s in self.sites if s not in wild]
        if not self.sites:
            return
        plans = [self._plan(s, samples[s.tensor], np.ones(1)) for s in self.sites]
        noise = InputNoise(self.graph, [s.names for s in self.sites], self.observe, self.judge)
        whole = float(noise.of(plans).mean())
        if not whole > 10 ** (-ENOUGH_DB / 10):
            self._skip(self.sites, f"all inputs of matrix products together lose less than {ENOUGH_DB:g} dB")
            return
        alone = self._alone(plans, noise, whole)
        del noise  # its session holds a copy of the weights
        tried = [s for s in self.sites if multiply or s.tensor in free]
        self._skip([s for s in self.sites if s not in tried], "nothing takes the factors in")
        choices = self._choices(tried, free, alone)
        wanted = {i: c for i, s in enumerate(self.sites) if (c := choices.get(s.tensor)) is not None}
        left = sum(alone[s.tensor] * _kept(choices.get(s.tensor)) for s in self.sites)
        for i, c in [*wanted.items()]:
            if alone[self.sites[i].tensor] * (1 - c.kept) < LEAST_SHARE * left:
                self._skip([self.sites[i]], LITTLE)
                del wanted[i]
        if wanted:
            after = plans.copy()
            for i, choice in wanted.items():
                after[i] = self._plan(self.sites[i], samples[self.sites[i].tensor], choice.by_channel)
            self._apply(wanted, plans, after, free)

    def _samples(self) -> dict[str, ChannelSample]:
        """Ranges of all inputs that are finite, and few of their numbers."""
        names = [s.tensor for s in self.sites]
        samplers = {n: ChannelSampler(-1, len(self.calls), FEW_POSITIONS) for n in names}
        run = self.observe(self.graph, names)
        for i, call in enumerate(self.calls):
            values, rng = run(call), np.random.default_rng([self.ctx.seed, i])
            samplers = {n: sampler for n, sampler in samplers.items() if np.isfinite(values[n]).all()}
            for name, sampler in samplers.items():
                sampler.add(values[name], rng)
        return {name: sampler.result() for name, sampler in samplers.items()}

    def _choices(
        self, sites: Sequence[_Site], free: Mapping[str, ScalingGroup], alone: Mapping[str, float]
    ) -> dict[str, _Choice]:
        """Factors by tensor; as many inputs at a time as what is seen of them leaves room for, the noisiest first."""
        found, left = dict[str, _Choice](), 0.0
        sites = sorted(sites, key=lambda s: -alone[s.tensor])
        parts = group_parts(self.graph, [free.get(s.tensor) or _group(s) for s in sites])
        starts = np.cumsum([0, *map(len, parts)])
        for start, portion in zip(starts, parts, strict=False):
            now = sites[start : start + len(portion)]
            if alone[now[0].tensor] < LEAST_SHARE * left:  # all that follow can gain less
                self._skip(sites[start:], LITTLE)
                break
            samples, grams = observed(self.graph, portion, self.calls, self.ctx)
            choose = partial(self._choice, samples=samples, grams=grams)
            # Inputs are independent and numpy releases the interpreter lock: two at a time.
            with ThreadPoolExecutor(THREADS) as pool:
                pairs = zip(now, pool.map(choose, now, portion), strict=True)
                for done, (site, choice) in enumerate(pairs, int(start) + 1):
                    self.ctx.progress("smoothing inputs", done, len(sites))
                    if isinstance(choice, str):
                        self._skip([site], choice)
                    else:
                        found[site.tensor] = choice
                    left += alone[site.tensor] * _kept(found.get(site.tensor))
        return found

    def _choice(
        self, site: _Site, group: ScalingGroup, samples: dict[str, ChannelSample], grams: Grams
    ) -> _Choice | str:
        """Factors of one input, or why it has none."""
        if reason := next((grams.left_out[n] for n in site.names if n in grams.left_out), ""):
            return reason
        parts = group.of(Side.READS)
        readers = [reader_of(p, grams, samples, self.kernels, self.ctx) for p in parts]
        if (best := search(readers, group.size)) is None:
            return "no factors that were tried lose less"
        was, now = (
            sum(r.input_noise(s) / max(r.power(), _TINY) for r in readers)
            for s in (np.ones(group.size), best.factors)
        )
        return _Choice(best, best.factors[parts[0].index], now / max(was, _TINY))

    def _plan(self, site: _Site, sample: ChannelSample, s: F64) -> ActivationPlan:
        """Codes of x / s: of the whole range, or where levels are few of the part of it that errs least."""
        low, high = float((sample.low / s).min()), float((sample.high / s).max())
        if self.levels == FINE or any(self.kernels[n] is Kernel.DYNAMIC for n in site.names):
            return range_plan(low, high, FINE)
        x = sample.values / np.reshape(s, (-1, 1))
        plans = [range_plan(c * low, c * high, self.levels) for c in CLIPS]
        return min(plans, key=lambda p: _squared_error(x, p))

    def _alone(self, plans: Sequence[ActivationPlan], noise: InputNoise, whole: float) -> dict[str, float]:
        """Noise of each input, rounded alone, by tensor; alike for all where that takes too many runs."""
        count = len(self.sites)
        if macs_on(self.graph, self.judge.calls[0]) * count > MOST_MACS:
            return {s.tensor: whole / count for s in self.sites}
        alone = dict[str, float]()
        for i, site in enumerate(self.sites):
            self.ctx.progress("measuring inputs", i, count)
            alone[site.tensor] = float(noise.of(plans, i, calls=1).mean())
        return alone

    def _apply(
        self,
        wanted: Mapping[int, _Choice],
        before: Sequence[ActivationPlan],
        after: Sequence[ActivationPlan],
        free: Mapping[str, ScalingGroup],
    ) -> None:
        """Scale a copy, measure it, and scale the graph where that gained."""

        def scale(graph: LpGraph) -> None:
            for i, choice in wanted.items():
                _scale(graph, self.sites[i], free.get(self.sites[i].tensor), choice.by_channel)

        judge = self._judge(self.judging)
        was = self._network_noise(self.graph.copy(), before, judge)
        scale(changed := self.graph.copy())
        now = self._network_noise(changed, after, judge)
        gain = 10 * np.log10(was / max(now, np.finfo(float).tiny))
        self.report.metrics["gain_db"] = float(gain)
        if gain < GAIN_DB:
            self._skip([self.sites[i] for i in wanted], f"the network would gain {gain:.1f} dB")
            return
        scale(self.graph)
        for i, choice in wanted.items():
            how = "folded" if self.sites[i].tensor in free else "by a multiplication"
            factors = 1 / choice.by_channel
            told = f"{factors.min():.3g} to {factors.max():.3g} times"
            fall = f"noise {10 * np.log10(max(choice.kept, _TINY)):.1f} dB"
            for name in self.sites[i].names:
                self.report.change(
                    name, f"input channels scaled by {choice.found.rule}, {how}", after=f"{told}; {fall}"
                )

    def _judge(self, calls: Sequence[Feeds]) -> Judge:
        names = list(self.judged.names)
        run = self.observe(self.graph, names)
        return Judge(run, calls, names, per_sample=False, logits=self.judged.logits)

    def _network_noise(self, graph: LpGraph, plans: Sequence[ActivationPlan], judge: Judge) -> float:
        readers = [site.names for site in self.sites]
        # What a static range of few calls clips is no matter here: all calls will make it.
        kernels = dict.fromkeys(self.kernels, Kernel.DYNAMIC) if self.levels == FINE else self.kernels
        before = graph.plan
        graph.plan = read_on_integers(graph, readers, plans, kernels, self.ctx.weights or USUAL)
        run = self.observe(rounded_network(graph, graph.plan), judge.outputs)
        found = float(judge.noise_terms(run).mean())
        del run
        discarded, graph.plan = rounded_bytes(graph.plan), before
        collect_replaced(discarded)
        return found

    def _skip(self, sites: Sequence[_Site], reason: str) -> None:
        for site in sites:
            for node in site.layers:
                self.report.skip(node, reason)


def _kept(choice: _Choice | None) -> float:
    return 1.0 if choice is None else choice.kept


def _foldable(groups: Sequence[ScalingGroup], site: _Site) -> ScalingGroup | None:
    """What takes the factors of an input in, where its layers alone read it; None where nothing does."""
    for group in groups:
        read = {p.node.name for p in group.of(Side.READS)}
        if read == set(site.names) and not group.limits and not fold_obstacle(group):
            makers = [p.node.inputs[1] for p in group.of(Side.WRITES) if p.node.op in LAYERS]
            return None if any(w is not None and len(w.consumers) > 1 for w in makers) else group
    return None


def _scale(graph: LpGraph, site: _Site, group: ScalingGroup | None, s: F64) -> None:
    """Scale one input, in the graph of the site or in a copy of it; into what makes it where there is a group."""
    if group is not None:
        parts = tuple(Part(graph.node(p.node.name), p.side, p.index) for p in group.parts)
        tensors = {graph.value(v.name): index for v, index in group.tensors.items()}
        factors = np.ones(group.size)
        factors[group.of(Side.READS)[0].index] = s
        factors[0] = 1
        fold(graph, ScalingGroup(group.size, parts, tensors, {}), factors)
        return
    layers = [graph.node(name) for name in site.names]
    x = graph.value(site.tensor)
    inverse = graph.constant(f"{layers[0].name}/smooth", (1 / s).astype(x.dtype or np.float32))
    made = graph.add_node("Mul", [x, inverse], name=f"{layers[0].name}/smooth", before=layers[0])
    graph.set_type(output_at(made), x.dtype, x.shape)
    for layer in layers:
        layer.set_input(0, output_at(made))
        if (
            reason := absorb_before(graph, layer, ChannelAffine(output_at(made), s, np.zeros_like(s)))
        ) is not None:
            raise ValueError(reason)


def _width(layer: Node) -> int:
    """How many channels a matrix product reads."""
    weight = layer.inputs[1]
    assert weight is not None
    return weight.dims[1] if layer.attrs.get("transB", 0) else weight.dims[0]


def _group(site: _Site) -> ScalingGroup:
    """Factors for the readers alone."""
    width = _width(site.layers[0])
    index = np.arange(1, width + 1)
    return ScalingGroup(width + 1, tuple(Part(n, Side.READS, index) for n in site.layers), {}, {})


def _squared_error(x: NDArray[np.floating], plan: ActivationPlan) -> float:
    codes = np.clip(np.rint(x / plan.scale) + plan.zero_point, 0, plan.code_max)
    return float((((codes - plan.zero_point) * plan.scale - x) ** 2).mean())
