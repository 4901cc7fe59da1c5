"""A value kept fresh: made once for many, again when it is old, and its failure kept as long."""

from __future__ import annotations

import threading

import pytest

from tasks.cache import Fresh


class Maker:
    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.fails = False

    def __call__(self, key: str) -> str:
        self.asked.append(key)
        if self.fails:
            raise ConnectionError("down")
        return f"{key}{len(self.asked)}"

    def fresh(self, kept: int = 64) -> Fresh[str, str]:
        return Fresh(self, 2.0, clock=lambda: self.now, kept=kept)


def test_a_value_is_made_again_only_when_it_is_old() -> None:
    maker = Maker()
    fresh = maker.fresh()
    assert [fresh("a"), fresh("a"), fresh("b")] == ["a1", "a1", "b2"]
    maker.now = 1.9
    assert fresh("a") == "a1"
    maker.now = 2.0
    assert fresh("a") == "a3"


def test_a_failure_is_told_to_all_who_ask_soon_after_and_tried_again_later() -> None:
    maker = Maker()
    fresh = maker.fresh()
    maker.fails = True
    for _ in range(3):
        with pytest.raises(ConnectionError, match="down"):
            fresh("a")
    assert maker.asked == ["a"]
    maker.now, maker.fails = 2.0, False
    assert fresh("a") == "a2"


def test_many_threads_wait_for_one() -> None:
    begun, go, made = threading.Event(), threading.Event(), []

    def make(key: str) -> int:
        begun.set()
        assert go.wait(10)
        made.append(key)
        return len(made)

    fresh: Fresh[str, int] = Fresh(make, 60.0)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(fresh("a"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert answers == [1] * 5


def test_no_more_keys_are_kept_than_said() -> None:
    maker = Maker()
    fresh = maker.fresh(kept=2)
    assert [fresh(key) for key in "abcb"] == ["a1", "b2", "c3", "b2"]
    assert fresh("a") == "a4", "the one not asked for the longest was forgotten"
