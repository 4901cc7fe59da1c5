"""The ONNX file of a policy, made of its `.pt2` file: here, or by a `Converter` beside this process.

PyTorch's ONNX exporter takes seconds to load and to convert even a small graph. A converter loads it while this process
traces the policy, and converts while this process plays and proves the other formats: on a core of its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import logging
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from tasks import sandbox
from tasks.errors import first_line

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

OPSET = 18
_LEAVE_S = 5.0

Order: TypeAlias = tuple[str, str, list[str], list[str]]
"""The `.pt2` file to read, the ONNX file to write, and the names of the graph's inputs and outputs."""


class Unconverted(Exception):
    """What `convert` raised in a converter, in a line."""


def convert(program: Path, target: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Write the graph in a `.pt2` file as ONNX (`target`), which has passed `onnx.checker`."""
    import onnx
    import torch

    for noisy in ("onnx_ir", "onnxscript", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            torch.export.load(program),
            (),
            str(target),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    onnx.checker.check_model(onnx.load(target), full_check=True)


class Converter:
    """A process beside this one that loads what `convert` needs at once, and converts one file when it is told to.

    It ends with the `with` block, and with this process.
    """

    def __enter__(self) -> Converter:
        # A fork shares the libraries that are loaded already: made after the zip is open, it has most of torch.
        context = multiprocessing.get_context("fork")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._ours, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()
        return self

    def start(self, program: Path, target: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Have it convert (see `convert`), and do not wait. Where it is gone already, `finish` says so."""
        with contextlib.suppress(BrokenPipeError):
            self._ours.send((str(program), str(target), list(inputs), list(outputs)))

    def finish(self) -> None:
        """Wait until it has converted. Raises Unconverted with what went wrong."""
        try:
            error = self._ours.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_LEAVE_S)
            code = self._process.exitcode
            raise Unconverted(f"converting to ONNX ended with code {code} before it was done") from None
        if error:
            raise Unconverted(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()
        self._process.kill()
        self._process.join()


def _serve(theirs: Connection, ours: Connection, parent: int) -> None:
    """In the converter: load, wait for the order, answer with an error or with nothing to tell."""
    ours.close()  # else it would never hear that the other side is gone
    sandbox.end_with(parent)
    gc.freeze()  # looking for garbage among what is shared would copy it
    try:
        _load()
        program, target, inputs, outputs = theirs.recv()
    except EOFError:
        return
    try:
        convert(Path(program), Path(target), inputs, outputs)
    except Exception as error:  # noqa: BLE001 - whatever torch raises is told in a line
        theirs.send(f"{type(error).__name__}: {first_line(error)}")
    else:
        theirs.send("")


def _load() -> None:
    """Import what `convert` will: the exporter's functions are many, and are looked up when it is first called."""
    for name in ("onnx", "onnxscript.function_libs.torch_lib.ops", "torch._dynamo", "torch.onnx"):
        importlib.import_module(name)
