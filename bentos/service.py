"""The BentoML service: `bentoml serve bentos.service:Gateway`, following the registry, or serving one built Bento."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Annotated, Any, Literal

import bentoml
import msgspec
from pydantic import BaseModel, ConfigDict, Field
from uvicorn.protocols.http import auto

from bentos import home, logs, openapi, single
from bentos.app import App, Asgi
from bentos.background import Worker
from bentos.door import Door
from bentos.guard import Guard, clients
from bentos.oip.desk import PREFIX, InferenceDesk
from bentos.problems import Problem
from bentos.protocol import SwiftProtocol
from bentos.wire import ActRequest

_worker: Worker | None = None
"""This process's gateway, once it has started: BentoML makes the service's instances, so it cannot be handed over."""


class FrontedService(bentoml.Service[Any]):
    """A BentoML service with the gateway's own app in front: its hot paths skip BentoML's HTTP stack entirely."""

    def to_asgi(self, is_main: bool = True) -> Asgi:
        """The app that `bentoml serve` runs in each worker."""
        logs.configure()
        self._door = Door(Guard(home.secret("admin_token"), clients()))
        self._door.admit(PREFIX, InferenceDesk(self._door).answer)
        # the server that BentoML is about to make takes its protocol from here
        auto.AutoHTTPProtocol = SwiftProtocol.to(self._door)
        return App(super().to_asgi(is_main=is_main), self._door, self._start)

    @property
    def openapi_spec(self) -> openapi.Described:
        """What BentoML serves at `/docs.json`: its own routes and the gateway's."""
        policies = sorted(_worker.core.routes) if _worker is not None else []
        return openapi.merged(super().openapi_spec.asdict(), policies)

    async def _start(self) -> Worker:
        global _worker
        version = self.bento.tag.version if self.bento is not None else None
        worker = Worker()
        await worker.start(single.find(version))
        _worker = worker
        self._door.open(worker)
        return worker


class Decisions(BaseModel):
    """Decisions, in the order of the observations."""

    model_config = ConfigDict(extra="allow")

    actions: list[Any] = Field(description="What `env.step` takes, one an observation")
    versions: list[str | None] = Field(description="The version that answered; null for a constant fallback")
    arms: list[Literal["champion", "control", "challenger"]]
    sources: list[Literal["policy", "fallback", "override"]]
    adjusted: list[list[str]] = Field(description="Why an action was changed to stay within the envelope")
    decision_ids: list[str]
    states: list[str] = Field([], description="State tokens to send back with the next step; none where not needed")
    log_probs: list[float | None] = Field([], description="Of drawn actions, where the policy explores; else none")


@bentoml.service(
    name="airlock",
    service_class=FrontedService,
    workers=int(os.environ.get("AIRLOCK_WORKERS", "1")),
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class Gateway:
    """Airlock's gateway: decisions of released reinforcement-learning policies."""

    @bentoml.api
    async def act(
        self,
        policy: Annotated[str, Field(description="Name of the policy")],
        observations: Annotated[
            list[float | list[Any] | dict[str, Any]], Field(description="Observations, as the environment emits them")
        ],
        episode_ids: Annotated[list[str | None] | None, Field(description="Signed ids, one an observation")] = None,
        user_ids: Annotated[list[str | None] | None, Field(description="Users, one an observation")] = None,
        action_masks: Annotated[
            list[list[bool]] | None, Field(description="Allowed actions, one list an observation")
        ] = None,
        states: Annotated[list[str | None] | None, Field(description="State tokens of the last answer")] = None,
    ) -> Decisions:
        """Decide, for BentoML clients: the same decisions as `POST /v1/policies/{policy}/act`, served more slowly."""
        if _worker is None:
            raise bentoml.exceptions.ServiceUnavailable("the gateway is starting")
        try:
            request = ActRequest(
                observations=observations,
                episode_ids=episode_ids,
                user_ids=user_ids,
                action_masks=action_masks,
                states=states,
            )
            answer = await _worker.core.act(policy, request)
        except Problem as problem:
            status = HTTPStatus(problem.status)
            raise bentoml.exceptions.BentoMLException(problem.detail, error_code=status) from problem
        return Decisions.model_validate(msgspec.to_builtins(answer))

    async def __is_ready__(self) -> bool:
        """Whether `/readyz` says yes."""
        return _worker is not None and _worker.ready
