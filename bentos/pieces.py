"""Rows of several requests in one call, and one request's rows in several: put together, and taken apart."""

from __future__ import annotations

import numpy as np

from bentos.rows import Decision, Rows


def merged(pieces: list[Rows]) -> Rows:
    """Rows of several requests, as one call of the graph takes them."""
    if len(pieces) == 1:
        return pieces[0]
    masks = [piece.masks for piece in pieces if piece.masks is not None]
    return Rows(
        feeds={name: np.concatenate([piece.feeds[name] for piece in pieces]) for name in pieces[0].feeds},
        size=sum(piece.size for piece in pieces),
        masks=np.concatenate(masks) if masks else None,
    )


def part_of(whole: Decision, start: int, stop: int) -> Decision:
    """What was decided of the rows from `start` to `stop`."""
    return Decision(
        action=whole.action[start:stop],
        finite=whole.finite[start:stop],
        sources=whole.sources[start:stop],
        versions=whole.versions[start:stop],
        scores=None if whole.scores is None else whole.scores[start:stop],
        recurrent=None
        if whole.recurrent is None
        else {name: array[start:stop] for name, array in whole.recurrent.items()},
        log_prob=None if whole.log_prob is None else whole.log_prob[start:stop],
    )


def joined(pieces: list[Decision]) -> Decision:
    """What several calls decided of one request's rows, in their order."""
    recurrent = [piece.recurrent for piece in pieces if piece.recurrent is not None]
    scores = [piece.scores for piece in pieces if piece.scores is not None]
    log_prob = [piece.log_prob for piece in pieces if piece.log_prob is not None]
    return Decision(
        action=np.concatenate([piece.action for piece in pieces]),
        finite=np.concatenate([piece.finite for piece in pieces]),
        sources=[source for piece in pieces for source in piece.sources],
        versions=[version for piece in pieces for version in piece.versions],
        scores=np.concatenate(scores) if scores else None,
        recurrent={name: np.concatenate([part[name] for part in recurrent]) for name in recurrent[0]}
        if recurrent
        else None,
        log_prob=np.concatenate(log_prob) if log_prob else None,
    )
