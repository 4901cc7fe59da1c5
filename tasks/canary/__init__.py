"""The life of a canary: plan, start, evidence, verdict, and the users that play in it.

Judging itself is pure and stands in `analysis`. May import `build`, `stack` and what stands below them, not
`learning`.
"""
