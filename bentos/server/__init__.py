"""The worker process: BentoML and uvicorn wiring, background loops, supervision, the metrics endpoint.

The only package that knows all others; only `bentos.service` imports it.
"""
