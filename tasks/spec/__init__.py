"""The policy spec: its sections, the files it is read from, and what a release may change in it.

May import `analysis`.
"""
