"""Operators that a release consists of: a stage, the approval, the canary."""
