"""Clients of the gateway's own HTTP routes: the routes as methods, and a policy that acts through them.

Stands on itself alone: imports nothing else of `bentos`.
"""

from .gateway import GatewayClient
from .policy import AsyncRemotePolicy, RemotePolicy
from .retry import GatewayError

__all__ = ["AsyncRemotePolicy", "GatewayClient", "GatewayError", "RemotePolicy"]
