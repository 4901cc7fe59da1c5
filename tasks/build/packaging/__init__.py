"""Policy packages and Bentos: assembled, verified, delivered.

May import the other packages of `build`.
"""
