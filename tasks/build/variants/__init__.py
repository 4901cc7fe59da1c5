"""Reduced-precision variants of a graph: written, compared with fp32, benchmarked, selected.

May import `export` and `training`.
"""
