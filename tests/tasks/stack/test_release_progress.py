"""The stages of a release, from the states of its tasks."""

from __future__ import annotations

import pytest

from tasks.stack.airflow_api import Run, TaskInstance
from tasks.stack.release_progress import stages, task_seconds


def task(
    task_id: str, state: str | None, started: float | None = None, ended: float | None = None, map_index: int = -1
) -> TaskInstance:
    return TaskInstance(task_id, map_index, state, 1, started, ended)


def run(*tasks: TaskInstance) -> Run:
    return Run("release_x", "r", "running", tasks)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([None, None], "waiting"),
        (["success", None], "running"),
        (["success", "queued"], "running"),
        (["success", "up_for_retry"], "running"),
        (["success", "success"], "success"),
        (["success", "skipped"], "success"),
        (["skipped", "upstream_failed"], "skipped"),
        (["success", "failed"], "failed"),
        (["running", "failed"], "failed"),
        (["deferred", None], "running"),
    ],
)
def test_a_stage_is_as_far_as_its_tasks(states: list[str | None], expected: str) -> None:
    (stage,) = stages(run(*(task(f"build.t{n}", state, 1.0, 2.0) for n, state in enumerate(states))), now=5.0)
    assert stage.state == expected


def test_stages_stand_in_the_order_of_a_release_whatever_airflow_lists_first() -> None:
    found = stages(run(task("report", None), task("canary.verdict", None), task("build.train", None)), now=0.0)
    assert [stage.name for stage in found] == ["build", "canary", "report"]


def test_a_running_stage_says_what_it_does_and_for_how_long() -> None:
    (stage,) = stages(
        run(task("build.train", "success", 10.0, 15.0), task("build.evaluate", "running", 16.0), task("build.x", None)),
        now=20.0,
    )
    assert stage.doing == ("evaluate",)
    assert stage.seconds == 10.0


def test_an_ended_stage_keeps_its_time() -> None:
    (stage,) = stages(run(task("build.train", "success", 10.0, 15.0)), now=100.0)
    assert stage.seconds == 5.0


def test_the_seconds_of_a_mapped_task_add_up() -> None:
    mapped = [task("build.benchmark", "success", 0.0, 2.0, index) for index in range(3)]
    assert task_seconds(run(*mapped, task("report", None)), now=9.0) == {"build.benchmark": 6.0}
