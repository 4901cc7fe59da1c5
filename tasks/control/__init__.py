"""The control plane: the only code that writes the registry's aliases, canary tag and validation status.

Every transition is an intent row first and is made under a fenced lease. May import `tracking`, `alerts` and what
stands below them.
"""
