"""`airlock store`: what an operator does to Airlock's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tasks.cli.output import Json, emit

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.canary.pruning import Pruned

app = typer.Typer(no_args_is_help=True, help="Airlock's own database.")


@app.callback()
def _store() -> None:
    """Airlock's own database."""


@app.command("prune")
def prune(
    older_than: Annotated[float, typer.Option(metavar="DAYS", help="Age of what goes, at least 1 day.", min=1)],
    policy: Annotated[str | None, typer.Option(help="Only of this policy.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count it.")] = False,
    as_json: Json = False,
) -> None:
    """Delete canaries that ended long ago, old outcomes outside experiments, and old monitoring reports.

    Gateways may go on meanwhile. What runs, what was tried last, and what the champion is measured by stays.
    """
    from tasks.canary.pruning import prune as run

    found = run(older_than, policy, dry_run=dry_run)
    document = {"dry_run": dry_run, "policies": [vars(one) for one in found]}
    emit(document, as_json, lambda out: _show(out, found, dry_run))


def _show(out: Console, found: list[Pruned], dry_run: bool) -> None:
    for one in found:
        rows = ", ".join(f"{count:,} {table}" for table, count in one.rows.items()) or "none"
        done = f"{one.canaries} canaries; rows {'that would go' if dry_run else 'gone'}: {rows}"
        out.print(f"{one.policy}: {one.skipped or done}", soft_wrap=True)
    if not found:
        out.print("the store holds no outcomes")
