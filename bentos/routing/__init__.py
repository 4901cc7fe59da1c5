"""Which version answers: the registry is polled, packages are loaded and verified, routes are swapped.

May import `runners` and what stands below them.
"""
