"""The gateway as other packages know it: decisions, reports of episodes, overrides and status, without transport."""

from __future__ import annotations

import time
from typing import Any

from bentos.gateway.engine import Core
from bentos.gateway.episodes import Reports
from bentos.gateway.overrides import Overriding
from bentos.gateway.status import Views
from bentos.routing.follower import Follower


class Gateway:
    """One worker's gateway."""

    def __init__(self, core: Core, database_url: str, follower: Follower | None = None) -> None:
        """`follower` is what keeps the core's routes; None: they are fixed, there is no registry."""
        self.core = core
        self.reports = Reports(core)
        self.overriding = Overriding(core)
        self.views = Views(core, database_url)
        self._follower = follower

    def unready(self) -> str | None:
        """Why others should be asked in this gateway's place; None: it is ready."""
        if self.core.unheard() and not self.core.routes:
            return "this gateway has not heard from the registry yet, and knows of no policy from before"
        if self._follower is not None and self._follower.beginning:
            missing = sorted(policy for policy, route in self.core.routes.items() if route.manifest is None)
            if missing:
                return f"this gateway is loading its first packages, and has none yet of {', '.join(missing[:20])}"
        return None

    def registry(self) -> dict[str, Any]:
        """Whether the registry answers, and how old its last answer is (s); null where it is not followed or unseen."""
        if self._follower is None:
            return {"ok": True, "age_seconds": None}
        seen = self._follower.seen_at
        return {"ok": self._follower.ok, "age_seconds": time.time() - seen if seen else None}
