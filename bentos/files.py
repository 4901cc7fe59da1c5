"""Files that are whole at every moment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Write a file at once: whoever reads it, or is killed while writing it, finds the old content or the new."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    draft.write_bytes(data)
    draft.replace(path)
