"""Checks of champions in production: drift, reward decay and error rates, with hysteresis before it acts.

May import `checklist` and what stands below it.
"""
