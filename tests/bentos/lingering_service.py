"""The gateway, in no hurry to end: what it does meanwhile can be seen on a slow machine, too."""

from bentos.http import protocol
from bentos.service import Gateway

protocol.DRAIN_SECONDS = 20.0

__all__ = ["Gateway"]
