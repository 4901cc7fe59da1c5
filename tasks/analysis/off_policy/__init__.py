"""Off-policy evaluation: what a candidate would have earned, estimated from logged decisions.

Imports nothing of `tasks` beside itself and does no I/O.
"""
