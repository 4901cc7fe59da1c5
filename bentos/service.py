"""The BentoML service: `bentoml serve bentos.service:Gateway`, following the registry, or serving one built Bento."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import bentoml
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from bentos.gateway import gateway
    from bentos.http.app import App, Asgi
    from bentos.http.openapi import Described


class FrontedService(bentoml.Service[Any]):
    """A BentoML service with the gateway's own app in front: its hot paths skip BentoML's HTTP stack entirely.

    What only a worker needs is imported in the worker: the process that keeps the workers starts in half the time.
    """

    app: App | None = None
    """This process's app, once it was made: BentoML makes the service's instances, so it cannot be handed over."""

    def to_asgi(self, is_main: bool = True) -> Asgi:
        """The app that `bentoml serve` runs in each worker."""
        from bentos.server import factory

        version = self.bento.tag.version if self.bento is not None else None
        self.app = factory.app(super().to_asgi(is_main=is_main), version)
        return self.app

    @property
    def gateway(self) -> gateway.Gateway | None:
        """This process's gateway; None before it runs."""
        return None if self.app is None else self.app.router.gateway

    @property
    def openapi_spec(self) -> Described:
        """What BentoML serves at `/docs.json`: its own routes and the gateway's."""
        from bentos.http import openapi

        policies = [] if self.gateway is None else sorted(self.gateway.core.routes)
        return openapi.merged(super().openapi_spec.asdict(), policies)


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

    @bentoml.on_deployment
    @staticmethod
    def keep_workers() -> None:
        """Called in the process that keeps the workers, before it starts them."""
        from bentos.server import supervisor

        supervisor.at_once()

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
        import msgspec

        from bentos.errors import Problem
        from bentos.gateway.schemas import ActRequest

        running = cast(FrontedService, Gateway).gateway
        if running is None:
            raise bentoml.exceptions.ServiceUnavailable("the gateway is starting")
        try:
            request = ActRequest(
                observations=observations,
                episode_ids=episode_ids,
                user_ids=user_ids,
                action_masks=action_masks,
                states=states,
            )
            answer = await running.core.act(policy, request)
        except Problem as problem:
            status = HTTPStatus(problem.status)
            raise bentoml.exceptions.BentoMLException(problem.detail, error_code=status) from problem
        return Decisions.model_validate(msgspec.to_builtins(answer))
