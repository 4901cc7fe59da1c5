"""HTTP: protocol, router, the routes of `/v1` and of the Open Inference Protocol, authentication.

Knows the gateway by its facade, not the worker process. May import `gateway` and what stands below it.
"""
