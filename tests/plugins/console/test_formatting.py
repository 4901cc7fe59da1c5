"""Numbers as the console's pages write them."""

from __future__ import annotations

import math

import pytest

from plugins.console import formatting


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "–"),
        (7, "7"),
        (12_345, "12,345"),
        (0.000_12, "0.00012"),
        (-1_141.5, "−1,142"),
        (9_999.6, "10,000"),
        (10_000.0, "10,000"),
        (123_456.7, "123,457"),
        (2.5e7, "2.500e+07"),
        (math.inf, "∞"),
        (math.nan, "–"),
    ],
)
def test_a_number_is_short_and_written_out_up_to_a_million(found: float | None, said: str) -> None:
    assert formatting.number(found) == said
