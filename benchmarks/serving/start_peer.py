"""Starting a peer and making sure that it answers what the policy answers, before anybody times it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from benchmarks.serving.paired_rounds import Target
from benchmarks.serving.peers.peer import JSON, PROJECT_PYTHON, Observations, Peer, Site, post
from benchmarks.serving.policy import Policy
from benchmarks.serving.server import NotServing, Server
from benchmarks.serving.wrk import Posts, write_bodies
from tasks.ports import free_port

ASKED = 64
"""How many different observations a peer is asked, in turns: as many as are asked at once where many are."""


@dataclass(frozen=True)
class Serving:
    """A peer that answers rightly."""

    peer: Peer
    site: Site
    server: Server
    ready_seconds: float

    def one(self) -> Target:
        """One observation a request."""
        bodies = self.peer.bodies(asked(self.site.policy), self.site.url)
        return self._target(self.peer.path, "one.bodies", bodies)

    def many(self) -> Target:
        """All observations in one request."""
        assert self.peer.many_path is not None
        body = self.peer.many(asked(self.site.policy), self.site.url)
        return self._target(self.peer.many_path, "many.bodies", [body])

    def _target(self, path: str, file: str, bodies: list[bytes]) -> Target:
        posts = Posts(f"{self.site.url}{path}", write_bodies(self.site.directory / file, bodies), JSON)
        return Target(self.server, posts)


def asked(policy: Policy) -> Observations:
    """The observations that peers are asked."""
    observations: Observations = policy.observations[:ASKED].tolist()
    return observations


@contextmanager
def serve(
    peer: Peer, policy: Policy, scratch: Path, python: str = PROJECT_PYTHON, workers: int = 1
) -> Iterator[Serving]:
    """Start a peer, wait until it answers, and see that its answers are the policy's. Raises NotServing."""
    port = free_port()
    directory = scratch / f"{peer.name}-{port}"
    directory.mkdir(parents=True)
    site = Site(python, port, policy, directory, workers)
    with Server(peer.launch(site), directory / "server.log") as server:
        serving = Serving(peer, site, server, server.wait(lambda: _answers(peer, site)))
        verify(serving)
        yield serving


def _answers(peer: Peer, site: Site) -> bool:
    try:
        post(f"{site.url}{peer.path}", peer.bodies(asked(site.policy)[:1], site.url)[0])
    except (httpx.HTTPError, msgspec.DecodeError):
        return False
    return True


def verify(serving: Serving) -> None:
    """Raises NotServing when an answer is not the policy's."""
    peer, site = serving.peer, serving.site
    observations, expected = asked(site.policy), site.policy.actions[:ASKED].tolist()
    bodies = peer.bodies(observations, site.url)
    came = [action for body in bodies for action in peer.actions(post(f"{site.url}{peer.path}", body))]
    if came != expected:
        raise NotServing(f"{peer.title} answers wrongly: expected the actions {expected}, came {came}")
    if peer.many_path is not None:
        came = peer.actions(post(f"{site.url}{peer.many_path}", peer.many(observations, site.url)))
        if came != expected:
            raise NotServing(f"{peer.title} answers {ASKED} at once wrongly: expected {expected}, came {came}")
