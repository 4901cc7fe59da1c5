"""The gateway against BentoML's own APIs: each pair in turns, at 1, 16 and 64 connections, one worker each."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.serving.compare import CONNECTIONS
from benchmarks.serving.paired_rounds import in_turns, warm_up
from benchmarks.serving.peers.bentoml import BentomlApi, BentomlBatchable
from benchmarks.serving.peers.gateway import Gateway, GatewayEpisodes
from benchmarks.serving.policy import Policy
from benchmarks.serving.start_peer import serve

OWN = (Gateway(), GatewayEpisodes())
APIS = (BentomlApi(), BentomlBatchable())


class Times(msgspec.Struct, frozen=True):
    """How many times a BentoML API's requests/s the gateway answers, by the API's name and number of connections."""

    title: str
    of: dict[str, dict[int, float]]

    def lowest(self, connections: int) -> float:
        """Of the API that comes nearest."""
        return min(times[connections] for times in self.of.values())


def own_apis(policy: Policy, scratch: Path, seconds: float, rounds: int) -> list[Times]:
    """Load the gateway, without and with episode ids, and each API in turns. Raises NotServing."""
    return [
        Times(own.title, {api.name: _times(own, api, policy, scratch, seconds, rounds) for api in APIS}) for own in OWN
    ]


def _times(
    own: Gateway, api: BentomlApi, policy: Policy, scratch: Path, seconds: float, rounds: int
) -> dict[int, float]:
    with serve(api, policy, scratch) as theirs, serve(own, policy, scratch) as ours:
        beside, target = theirs.one(), ours.one()
        for one in (beside, target):
            warm_up(one)
        return {count: in_turns(beside, target, count, seconds, rounds)[0].ratio for count in CONNECTIONS}
