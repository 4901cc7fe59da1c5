"""All peers, by name, in the order in which they are shown."""

from __future__ import annotations

from benchmarks.serving.peers.bentoml import BentomlApi, BentomlBatchable
from benchmarks.serving.peers.ceiling import Ceiling
from benchmarks.serving.peers.fastapi import FastapiOnnx, FastapiSb3
from benchmarks.serving.peers.gateway import Gateway, GatewayEpisodes
from benchmarks.serving.peers.litserve import Litserve, LitserveBatched
from benchmarks.serving.peers.mlflow import MlflowServe
from benchmarks.serving.peers.mlserver import Mlserver, MlserverBatched
from benchmarks.serving.peers.mosec import Mosec, MosecBatched
from benchmarks.serving.peers.peer import Peer
from benchmarks.serving.peers.triton import TritonServer

CEILING = Ceiling()
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        CEILING,
        Gateway(),
        GatewayEpisodes(),
        BentomlApi(),
        BentomlBatchable(),
        FastapiOnnx(),
        FastapiSb3(),
        MlflowServe(),
        Mlserver(),
        MlserverBatched(),
        Litserve(),
        LitserveBatched(),
        Mosec(),
        MosecBatched(),
        TritonServer(),
    )
}
