"""What every section of a policy spec is: immutable, and without room for fields that nobody knows."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a policy spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)
