"""From stored units and the plan to a verdict: primary test, guardrails, budget, anchor.

May import `sequential`; does no I/O.
"""
