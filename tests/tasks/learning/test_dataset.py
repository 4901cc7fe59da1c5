"""The dataset: a Parquet file that says what it is, reads back as it was written, and is the same every time."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import Misconfigured
from tasks.learning.dataset import Transitions, read, write


def made(episodes: int, length: int = 4, actions: tuple[int, ...] = (1,)) -> Transitions:
    count = episodes * length
    random = np.random.default_rng(0)
    return Transitions(
        episode=np.repeat(np.arange(episodes), length),
        step=np.tile(np.arange(length), episodes),
        observation=random.normal(size=(count, 3)).astype(np.float32),
        action=random.normal(size=(count, *actions)).astype(np.float32),
        log_prob=np.where(np.arange(count) % 3, random.normal(size=count), np.nan),
        reward=random.normal(size=count),
        next_observation=random.normal(size=(count, 3)).astype(np.float32),
        terminated=np.arange(count) % length == length - 1,
        truncated=np.zeros(count, bool),
        continued=np.ones(count, bool),
        key=tuple(f"{9 - number % 10}-{number}" for number in range(episodes)),
        version=("1",) * episodes,
    )


@pytest.mark.parametrize("actions", [(1,), (), (2,)])
def test_a_dataset_reads_back_as_it_was_written(actions: tuple[int, ...], tmp_path: Path) -> None:
    data = made(5, actions=actions)
    digest = write(data, tmp_path / "one.parquet", {"policy": "p"})
    found, lineage = read(tmp_path / "one.parquet")
    assert lineage == {"policy": "p"}
    for field in fields(Transitions):
        ours, theirs = getattr(data, field.name), getattr(found, field.name)
        if isinstance(ours, tuple):
            assert ours == theirs
        else:
            np.testing.assert_array_equal(ours, theirs)
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert digest == write(data, tmp_path / "two.parquet", {"policy": "p"})
    assert digest != write(replace(data, reward=-data.reward), tmp_path / "three.parquet", {"policy": "p"})


def test_another_file_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "text").write_text("no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign")
    for name in ("text", "foreign", "missing"):
        with pytest.raises(Misconfigured, match=name):
            read(tmp_path / name)


def test_an_episode_is_held_out_or_not_whatever_else_is_in_the_dataset() -> None:
    data = made(200)
    held = data.held_out(0.3)
    assert 30 < held.sum() < 90
    assert (data.only(np.arange(200) < 50).held_out(0.3) == held[:50]).all()
    kept = data.only(held)
    assert kept.episodes == held.sum()
    assert (kept.lengths == 4).all()
    np.testing.assert_allclose(kept.returns, data.returns[held])
