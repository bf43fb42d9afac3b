"""What a conventional accelerator would do for the layers that a machine does."""

from collections.abc import Iterable

from lpcompile.backends.cim.digital_int8 import DigitalLayer
from lpcompile.backends.cim.work import Dense, Depthwise, Work


def digital_layers(work: Iterable[Work]) -> list[DigitalLayer]:
    """One layer an ONNX node, in the order of the nodes.

    A grouped layer that stands in several matrices is one layer again, without the zeros between its groups; the
    matrices read and write disjoint channels, so their bytes add up.
    """
    found: dict[str, DigitalLayer] = {}
    for w in work:
        if not isinstance(w, (Dense, Depthwise)):
            continue
        weights = w.weights.size - (w.zeros if isinstance(w, Dense) else 0)
        before = found.get(w.name, DigitalLayer(w.name, 0, 0, 0, 0))
        found[w.name] = DigitalLayer(
            w.name,
            before.macs + w.macs,
            before.weight_bytes + weights,
            before.input_bytes + w.x.size,
            before.output_bytes + w.out.size,
        )
    return list(found.values())
