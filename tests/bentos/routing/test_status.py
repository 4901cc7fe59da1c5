"""What people see of a policy's versions, in order."""

from __future__ import annotations

from bentos.routing.status import number


def test_versions_are_sorted_as_numbers_and_what_is_none_comes_first() -> None:
    assert sorted(["10", "9", "2", "candidate"], key=number) == ["candidate", "2", "9", "10"]


def test_a_digit_that_is_no_decimal_number_is_sorted_as_a_name() -> None:
    assert sorted(["1", "²"], key=number) == ["²", "1"]
