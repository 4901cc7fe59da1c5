"""Where a candidate comes from: trained here, or imported from a Stable-Baselines3 zip."""

from __future__ import annotations

from typing import Any

from tasks.runs import Release


def model(release: Release) -> dict[str, Any]:
    """Train or import the candidate, as the release's `source` says."""
    if release.params.source == "zip":
        from tasks.importing import import_zip

        return import_zip(release)
    from tasks.train import train

    return train(release)
