"""What Airflow loads by entry point: Airlock's plugin, unless one of Airlock's packages is shadowed.

Airflow reports a plugin that cannot be imported, and starts without it.
"""

from __future__ import annotations

import logging

from airlock_launch import shadows

_found = shadows()
for _line in _found:
    logging.getLogger(__name__).error(_line)
if _found:
    raise ImportError("; ".join(_found))

from plugins.airlock import AirlockPlugin  # noqa: E402 - what would be imported was looked at first

__all__ = ["AirlockPlugin"]
