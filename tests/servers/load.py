"""An application before gateways: starts episodes, asks for actions, reports outcomes, and keeps books."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import httpx

from bentos.client import GatewayClient, GatewayError

OBSERVATIONS = [[0.0, 0.0, 0.01, 0.0]]
PATIENCE_SECONDS = 300.0
PLAYERS = 3
PAUSE_SECONDS = 0.05
"""Between two episodes of a player; the machine is the gateways', too."""


class Load:
    """Players who end their episodes with returns of one and the same distribution, whatever the arm.

    Starts and decisions go through the client and its safe retries; outcomes are sent raw, and again until they are
    acknowledged, so that every answer is seen. What the client could not do for `patience` seconds, or with 0 at its
    only try, counts as failed.
    """

    def __init__(self, url: str, policy: str, patience: float = PATIENCE_SECONDS) -> None:
        self._policy = policy
        self._client = GatewayClient(url, timeout=30.0, patience=patience)
        self._http = httpx.Client(base_url=url, timeout=60)
        self.failed: list[str] = []
        self.decisions: Counter[str] = Counter()
        """By who answered."""
        self.slowest = 0.0
        self.begun: dict[str, str] = {}
        """Arms of the episodes that were started, by id."""
        self.acknowledged: dict[str, float] = {}
        """Returns of the outcomes that were answered with 200, by episode id."""
        self.told: Counter[str] = Counter()
        self.refused: Counter[tuple[int, bool]] = Counter()
        """Answers to outcomes that were no acknowledgement: status, and whether it said when to come again."""
        self.lost = 0
        """Outcomes sent to a connection that broke."""
        self.loss = 0.0
        """How much less the challenger's episodes return than the others'."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._play, args=(number,)) for number in range(PLAYERS)]
        self._threads += [threading.Thread(target=self._ask)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it, once every outcome is acknowledged."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._http.close()

    def experimental(self) -> int:
        """How many outcomes of episodes in the canary were acknowledged."""
        with self._lock:
            return sum(self.begun[episode] != "champion" for episode in self.acknowledged)

    def _ask(self) -> None:
        while not self._stopping.is_set():
            self._decide(None)
            time.sleep(0.02)

    def _decide(self, episode: str | None) -> None:
        began = time.monotonic()
        try:
            answer = self._client.act(self._policy, OBSERVATIONS, [episode] if episode else None)
        except GatewayError as error:
            self.failed.append(str(error))
            return
        with self._lock:
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.decisions[answer["sources"][0]] += 1

    def _play(self, number: int) -> None:
        chance = random.Random(number)
        while not self._stopping.is_set():
            try:
                (started,) = self._client.start_episodes(self._policy, [None])
            except GatewayError as error:
                self.failed.append(str(error))
                continue
            episode, arm = started["episode_id"], started["arm"]
            with self._lock:
                self.begun[episode] = arm
            self._decide(episode)
            value = float(chance.randrange(250, 351))
            self._report(episode, value - (self.loss if arm == "challenger" else 0.0))
            time.sleep(PAUSE_SECONDS)

    def _report(self, episode: str, value: float) -> None:
        outcome: dict[str, Any] = {"episode_id": episode, "return": value, "length": 1}
        while True:
            try:
                answer = self._http.post(f"/v1/policies/{self._policy}/outcomes", json=outcome)
            except httpx.HTTPError:
                self.lost += 1
            else:
                if answer.status_code == 200:
                    with self._lock:
                        self.acknowledged[episode] = value
                        self.told.update(answer.json())
                    return
                self.refused[answer.status_code, "retry-after" in answer.headers] += 1
            time.sleep(0.2)
