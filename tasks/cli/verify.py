"""`airlock verify`: a third party's check of an evidence bundle, offline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.cli.output import Json, emit

if TYPE_CHECKING:
    from rich.console import Console


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The zip.", exists=True, dir_okay=False)],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="The model version's tag `evidence_sha256`, to compare with.")
    ] = None,
    package: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A policy package, to check it is the one.", exists=True, file_okay=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check an evidence bundle, offline: every digest, both gates, and the verdict, reached again from the units.

    Exits with 1 where something was changed, is missing, was added or does not follow.
    """
    from tasks.reporting.bundle.archive import BundleError
    from tasks.reporting.bundle.verify import verify as check

    if sha256 is not None and not re.fullmatch(r"\s*[0-9a-fA-F]{64}\s*", sha256):
        raise typer.BadParameter(f"{sha256!r}: expected 64 hexadecimal digits", param_hint="--sha256")
    try:
        document = check(bundle, sha256, package)
    except BundleError as error:
        problem = {"what": "unreadable", "file": str(bundle), "detail": str(error)}
        document = {"ok": False, "bundle": str(bundle), "problems": [problem], "notes": []}
    emit(document, as_json, lambda out: show(out, document))
    if not document["ok"]:
        raise typer.Exit(1)


def show(out: Console, document: Mapping[str, Any]) -> None:
    """What was checked, and what is wrong with it."""

    def line(text: str, style: str | None = None) -> None:
        out.print(text, style=style, soft_wrap=True, markup=False)

    if "policy" in document:
        line(f"{document['policy']} version {document['version']}, {document['outcome']}; {document['files']} files")
    for phase, verdict in document.get("checklists", {}).items():
        line(f"{phase.replace('_', '-')} checklist, from its checks: {verdict}")
    if found := document.get("verdict"):
        units = ", ".join(f"{count} {arm}" for arm, count in found["units"].items())
        line(f"canary, judged again from its units ({units}): {found['recomputed']}, {found['reason']}")
    for note in document["notes"]:
        line(f"note: {note}")
    for problem in document["problems"]:
        line(f"{problem['what']}: {problem['file']}: {problem['detail']}", "red")
    if document["ok"]:
        line("good: the bundle is whole and its verdicts follow from its evidence", "green")
    else:
        line(f"NOT GOOD: {len(document['problems'])} problems", "red")
