"""The Open Inference Protocol v2 (KServe, Triton) over HTTP: a policy is a model, its decisions are inferences.

May import the rest of `http` but the router, and what stands below `http`.
"""
