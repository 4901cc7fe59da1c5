"""The `airlock` command: one module a group of subcommands, assembled in `app`.

May import every other package but `stages`.
"""

from tasks.cli.app import main

__all__ = ["main"]
