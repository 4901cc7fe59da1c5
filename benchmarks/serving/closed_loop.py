"""What a closed loop can give at most: a bound for the policy that takes its time, on a machine of any speed."""

from __future__ import annotations


def bound(connections: int, call: float, row: float, turn_round: float) -> float:
    """Most requests a second over `connections` that each ask again when they are answered.

    The model takes `call` + n `row` seconds for n rows, one call at a time. The server's loop spends `turn_round`
    seconds on every request between its answer and the queue, one request at a time; during a call it may do so for
    requests that are not in the call.

    A row of a call comes back only after the call. So of N connections at most N - n are queued when a call of n rows
    ends, and each further row of the next call, of m rows, costs `turn_round` until it begins. From begin to begin that
    makes at least call + n row + turn_round max(0, n + m - N). This is convex in (n, m), so by Jensen's inequality no
    sequence of calls of mean size n does better than if all were of that size: a rate of at most

        n / (call + n row + turn_round max(0, 2 n - N)),

    which grows up to n = N / 2 and is monotone from there to n = N. The larger of these two is the bound: half of the
    requests turned round while the other half is decided, or all decided together and then turned round.
    """
    halves = connections / 2 / (call + connections / 2 * row)
    together = connections / (call + connections * row + connections * turn_round)
    return max(halves, together)
