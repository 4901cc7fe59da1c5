"""`airlock policies`: the specs as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tasks.cli.output import Json, emit, stderr

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Policy specs: validate them, print their schema, write their DAG files.", no_args_is_help=True)


@app.command()
def validate(as_json: Json = False) -> None:
    """Check every policy spec and list every problem at once: file, field, what was expected, what came."""
    from tasks.spec.files import validate as check

    found = check()
    console = stderr()
    for warning in found.warnings:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)

    def show(out: Console) -> None:
        for problem in found.problems:
            out.print(str(problem), soft_wrap=True, markup=False)
        out.print(f"{len(found.valid)} valid, {len(found.problems)} problems")

    emit(found.document(), as_json, show)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page for people (docs/spec.md) instead.")] = False,
) -> None:
    """Print the JSON schema of a policy spec: every field, what it takes, its default and its meaning."""
    from tasks.spec.files import schema as describe
    from tasks.spec.reference import reference

    if markdown:
        typer.echo(reference(), nl=False)
        return
    emit(describe(), True, lambda out: None)


@app.command()
def sync(as_json: Json = False) -> None:
    """Write the DAG file of every spec that has none (`airlock up` does it, too)."""
    from tasks.spec.files import sync as write

    written = [str(path) for path in write()]
    emit(
        {"written": written},
        as_json,
        lambda out: out.print("\n".join(f"wrote {path}" for path in written) or "every spec has its DAG file"),
    )
