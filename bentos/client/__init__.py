"""Clients of the gateway's own HTTP routes: the routes as methods, and a policy that acts through them.

Stands on itself alone: imports nothing else of `bentos`.
"""

from bentos.client.gateway import GatewayClient
from bentos.client.policy import AsyncRemotePolicy, RemotePolicy
from bentos.client.retry import GatewayError

__all__ = ["AsyncRemotePolicy", "GatewayClient", "GatewayError", "RemotePolicy"]
