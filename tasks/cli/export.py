"""`airlock export`: a policy package from a Stable-Baselines3 zip."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tasks.cli.output import Json, emit, stderr

if TYPE_CHECKING:
    from rich.console import Console

NAME = r"[a-z][a-z0-9_]{0,62}"


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL.zip", help="A zip that Stable-Baselines3 saved.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the package goes; made with its parents.")],
    algorithm: Annotated[str | None, typer.Option(help="The algorithm; by default told from the zip.")] = None,
    env: Annotated[
        str | None, typer.Option(help="Gymnasium id; by default told from rl-zoo's files. `none`: play nothing.")
    ] = None,
    vecnormalize: Annotated[
        Path | None, typer.Option(metavar="PKL", help="VecNormalize statistics; by default those beside the zip.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The policy's name; by default the environment's.")] = None,
    variants: Annotated[
        Literal["fp32", "all"], typer.Option(help="`all` also makes, judges and measures fp16 and int8.")
    ] = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Replace what is at DIR.")] = False,
    time_limit: Annotated[float, typer.Option(help="Most seconds the whole may take.", min=1)] = 300,
    memory_limit: Annotated[float, typer.Option(help="Most memory it may take, MB.", min=1)] = 4000,
    as_json: Json = False,
) -> None:
    """Make a policy package from an SB3 or sb3-contrib zip, proved to act as it does. Open only zips you trust."""
    from tasks.build.packaging.delivery import Order, deliver
    from tasks.build.training.algorithms import CLASSES
    from tasks.sandbox import Limits

    for path, option in ((model, "MODEL.zip"), (vecnormalize, "--vecnormalize")):
        if path is not None and not path.is_file():
            raise typer.BadParameter(f"{path}: no such file", param_hint=option)
    if algorithm is not None and algorithm not in CLASSES:
        known = ", ".join(sorted(CLASSES))
        raise typer.BadParameter(f"unknown algorithm {algorithm!r}; one of {known}", param_hint="--algorithm")
    if name is not None and not re.fullmatch(NAME, name):
        raise typer.BadParameter(f"{name!r}: expected lower-case letters, digits and underscores", param_hint="--name")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that what was written aside is removed
    order = Order(model, out, algorithm, env, vecnormalize, name, variants, force, Limits(time_limit, memory_limit))
    with stderr().status("looking at the zip", spinner="dots") as shown:
        console = stderr()

        def say(step: str) -> None:
            shown.update(step)
            if not console.is_terminal or step.startswith("note: "):
                console.print(step, style="dim", soft_wrap=True)

        document = deliver(order, say)
    emit(document, as_json, lambda out: show(out, document))


def show(out: Console, document: Mapping[str, Any]) -> None:
    """What was made, and how it was proved."""
    parity, environment = document["parity"], document["environment"]
    if document["identical"]:
        out.print(f"{document['package']}: this package is there already, whole; nothing to do")
    out.print(
        f"{document['package']}  policy {document['name']} ({document['algorithm']}), ships {document['variant']}"
    )
    out.print(f"equal to the original on {parity['observations']} observations ({parity['source']})")
    returns = parity.get("returns") or {}
    if "skipped" in returns:
        out.print(f"not played: {returns['skipped']}")
    elif returns:
        out.print(
            f"return over {returns['episodes']} paired episodes of {environment['id']}: {returns['exported']:.2f}, "
            f"the original's {returns['original']:.2f}"
        )
    out.print(f"{document['seconds']['total']:.1f} s; serve it: airlock serve {document['package']}")
