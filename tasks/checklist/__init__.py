"""The checklist: ten automated checks before a deployment and eight after it, and the gate that reads them."""

from __future__ import annotations

from typing import Any

from tasks.tracking.release import Release


def pre_deployment(release: Release) -> dict[str, Any]:
    """Run the pre-deployment checklist on the packaged service. Raises Rejected when the gate stays shut."""
    from tasks.checklist.pre_deployment import pre_deployment as run

    return run(release)


def post_deployment(release: Release) -> dict[str, Any]:
    """Run the post-deployment checklist on the live gateway. Raises Rejected after restoring the champion before."""
    from tasks.checklist.post_deployment import post_deployment as run

    return run(release)
