"""`airlock demo`: shows the demo's releases as they move, then what came out of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from tasks.cli.output import Json, emit, stderr

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from tasks.stack.airflow_api import Run
    from tasks.stack.demo import Follower
    from tasks.stack.health import Health

_MARKS = {"success": "[green]done[/]", "failed": "[red]failed[/]", "running": "[yellow]running[/]", "skipped": "-"}


def demo(as_json: Json = False) -> None:
    """Release cartpole three times: a first champion, a better one by A/B test, and a regression that is rolled back.

    Runs on a stack of its own, which is stopped at the end. Exits with 0 only if all three end as they should and no
    request failed.
    """
    from tasks.stack.demo import demo as run

    console = stderr()
    if console.is_terminal:
        from rich.live import Live

        with Live(console=console, refresh_per_second=4, transient=False) as live:
            document = run(Board(live).follower())
    else:
        document = run(_lines(console))
    emit(document, as_json, lambda out: _summary(out, document))
    if not document["ok"]:
        raise typer.Exit(1)


class Board:
    """A table of stages by releases that is drawn again whenever something moves."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._runs: dict[int, Run] = {}
        self._ended: dict[int, dict[str, Any]] = {}
        self._note = "starting the stack"

    def follower(self) -> Follower:
        from tasks.stack.demo import Follower

        return Follower(self._starting, self._started, self._moved, self._moved, self._end)

    def _starting(self, health: dict[str, Health]) -> None:
        waiting = [name for name, answer in health.items() if not answer.ok]
        self._note = f"starting the stack: waiting for {', '.join(waiting)}" if waiting else "the stack is up"
        self._draw()

    def _started(self, running: Any) -> None:
        self._note = (
            f"Airflow {running.airflow} (user {running.user}, password {running.password})   MLflow {running.mlflow}"
        )
        self._draw()

    def _moved(self, number: int, run: Run) -> None:
        self._runs[number] = run
        self._draw()

    def _end(self, number: int, release: dict[str, Any]) -> None:
        self._ended[number] = release
        self._draw()

    def _draw(self) -> None:
        self._live.update(self.table())

    def table(self) -> Table:
        """Stages down, releases across."""
        from rich.table import Table

        from tasks.stack.demo import PLANS
        from tasks.stack.release_progress import STAGES, stages

        table = Table(caption=self._note, caption_justify="left", title="airlock demo", title_justify="left")
        table.add_column("stage")
        for number, plan in enumerate(PLANS, start=1):
            table.add_column(f"{number}: {plan.title}", ratio=1)
        seen = {number: {s.name: s for s in stages(run, time.time())} for number, run in self._runs.items()}
        for name in STAGES:
            cells = []
            for number in range(1, len(PLANS) + 1):
                stage = seen.get(number, {}).get(name)
                if stage is None or stage.state == "waiting":
                    cells.append("")
                else:
                    doing = f" [dim]{', '.join(stage.doing)}[/]" if stage.doing else ""
                    cells.append(f"{_MARKS.get(stage.state, stage.state)} {stage.seconds:.0f} s{doing}")
            table.add_row(name, *cells)
        verdicts = [(self._ended.get(number) or {}).get("verdict") or "" for number in range(1, len(PLANS) + 1)]
        table.add_row("[bold]verdict[/]", *verdicts)
        return table


def _lines(console: Console) -> Follower:
    """The same as plain lines, where nothing can be drawn again."""
    from tasks.cli.releases import StageLines
    from tasks.stack.demo import PLANS, Follower

    watchers: dict[int, StageLines] = {}

    def released(number: int, run: Run) -> None:
        console.print(f"release {number}: {PLANS[number - 1].title} ({run.run_id})", soft_wrap=True)
        watchers[number] = StageLines(console, prefix=f"  {number}  ")

    def ended(number: int, release: dict[str, Any]) -> None:
        console.print(f"release {number} ended: {release['verdict']} after {release['total_seconds']:.0f} s")

    return Follower(
        started=lambda running: console.print(f"the stack is up after {running.seconds:.0f} s"),
        released=released,
        moved=lambda number, run: watchers[number](run),
        ended=ended,
    )


def _summary(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        *(
            "release",
            "version",
            "verdict",
            "estimate [bounds]",
            "challenger / control units",
            "latency p50/p99",
            "checks",
            "seconds",
        ),
        box=None,
        pad_edge=False,
    )
    for number, release in enumerate(document["releases"], start=1):
        difference = release.get("difference") or {}
        bounds = [float(difference[key]) for key in ("estimate", "lower", "upper") if difference.get(key) is not None]
        shown = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*bounds) if len(bounds) == 3 else "-"
        units = " / ".join(str((release.get("units") or {}).get(arm, "-")) for arm in ("challenger", "control"))
        latency = release["traffic"].get("latency_ms") or {}
        times = f"{latency['p50']:.1f} / {latency['p99']:.1f} ms" if latency else "-"
        counts: dict[str, int] = {}
        for phase in release["checklists"].values():
            for status, count in phase.items():
                counts[status] = counts.get(status, 0) + count
        checks = ", ".join(f"{count} {status}" for status, count in counts.items())
        cells = (release["version"], release["verdict"], shown, units, times, checks, f"{release['total_seconds']:.0f}")
        table.add_row(str(number), *(str(cell) for cell in cells))
    out.print(table)
    for number, release in enumerate(document["releases"], start=1):
        out.print(f"{number}: {release.get('reason')}", soft_wrap=True, markup=False)
    requests = document["requests"]
    out.print(
        f"{requests['total']} actions asked for in {requests['http_requests']} requests, "
        f"{requests['failed']} requests failed; {document['seconds']:.0f} s in all"
    )
    state = document["home"]
    out.print(f"evidence: MLflow's database and artifacts in {state}/mlflow, logs in {state}/logs", soft_wrap=True)
    out.print(f"to look around: AIRLOCK_HOME={state} make up", soft_wrap=True)
    if document["problem"]:
        out.print(f"[red]not as it should be:[/] {document['problem']}", soft_wrap=True)
    out.print("[green]as it should be[/]" if document["ok"] else "[red]failed[/]")
