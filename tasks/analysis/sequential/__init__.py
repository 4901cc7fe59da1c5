"""Sequential tests that may be looked at after every unit: betting, asymptotic sequences, rates, sample ratio.

Imports nothing of `tasks` beside itself and does no I/O.
"""
