"""Bodies of requests, for the apps that read them with pydantic."""

from __future__ import annotations

from pydantic import BaseModel


class One(BaseModel):
    """One observation."""

    observation: list[float]


class Many(BaseModel):
    """Many observations."""

    observations: list[list[float]]
