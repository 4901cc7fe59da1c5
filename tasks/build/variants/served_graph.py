"""The graph that is served: a variant's graph cut to the outputs that serving asks for."""

from __future__ import annotations

import logging
from pathlib import Path

from bentos.package.interface import unserved
from tasks.build.export.graph import decider
from tasks.build.variants.layers import bare, cut
from tasks.inputs import Inputs, in_batches, spread

ALONE_ROWS = 256
"""Most rows that both graphs are asked one by one."""
BATCH = 64

log = logging.getLogger(__name__)


def write_served(graph: Path, given: Inputs, directory: Path, explore: bool = False) -> Path:
    """The graph that is served in place of `graph`: a cut one in `directory`, named `<stem>.served.onnx`.

    It is `graph` itself where that has no output to leave out, and where the cut one answers `given` rows differently,
    if only in one bit: a variant is judged by its whole graph, and ONNX Runtime may round float16 elsewhere once a
    layer has one reader less.
    """
    import onnx

    model = bare(graph)
    left_out = unserved(explore)
    names = [output.name for output in model.graph.output]
    served = [name for name in names if name not in left_out]
    if served == names:
        return graph
    target = directory / f"{graph.stem}.served.onnx"
    onnx.save(cut(model, served), target)
    if different := differing(graph, target, given):
        target.unlink()
        log.warning("%s is served whole: cut, it answers with another %s", graph.name, ", ".join(different))
        return graph
    return target


def differing(graph: Path, served: Path, given: Inputs) -> list[str]:
    """Outputs of `served` that are not, bit for bit, those of `graph`, asked row by row and in batches of 64."""
    whole, part = decider(graph), decider(served)
    found: set[str] = set()
    for batch, rows in ((1, spread(given, ALONE_ROWS)), (BATCH, given)):
        expected = in_batches(whole, rows, batch)
        for name, values in in_batches(part, rows, batch).items():
            wanted = expected[name]
            if (values.dtype, values.shape, values.tobytes()) != (wanted.dtype, wanted.shape, wanted.tobytes()):
                found.add(name)
    return sorted(found)
