"""All peers, by name, in the order in which they are shown."""

from __future__ import annotations

from benchmarks.serving.peers.ceiling import Ceiling
from benchmarks.serving.peers.gateway import Gateway, GatewayEpisodes
from benchmarks.serving.peers.peer import Peer

CEILING = Ceiling()
PEERS: dict[str, Peer] = {peer.name: peer for peer in (CEILING, Gateway(), GatewayEpisodes())}
