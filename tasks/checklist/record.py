"""What follows from a checklist, in both phases: evidence first, then tags, then the card and the log."""

from __future__ import annotations

import logging

from tasks.checklist.render import as_text
from tasks.checklist.types import Checklist
from tasks.control.plane import ControlPlane
from tasks.reporting import card
from tasks.tracking.release import Release

log = logging.getLogger(__name__)


def record(release: Release, control: ControlPlane, checklist: Checklist) -> None:
    """Keep the checklist as an artifact, as `check.<id>` tags of the version and in the task's log."""
    release.put_json(f"checklist/{checklist.phase}.json", checklist.to_json())
    tags: dict[str, str] = {f"check.{check.id}": check.status for check in checklist.checks}
    control.annotate(release.policy, checklist.version, tags)
    release.tag(stage=checklist.phase)
    log.info("\n%s", as_text(checklist))


def show(release: Release, checklist: Checklist) -> None:
    """Write the card again, now that the gate has been acted on."""
    card.update(release, checklist.version)
