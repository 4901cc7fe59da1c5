"""Override hooks: code that a Bento is packaged with, and that may put another action in the place of the policy's.

A hook is code, and a gateway runs none that came with a package: a hook is looked for among the Bento's own code
(`hooks/` beside `bentos/`), else in the directory that `$AIRLOCK_HOOKS` names on this machine, and must be, byte for
byte, what the package's manifest says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bentos.package.manifest import Array, Manifest, PackageError

HOOK_FILE = "hook.py"
"""The hook in a package: evidence of what it is, never run from there."""
HOOKS = "hooks"


@dataclass(frozen=True)
class Context:
    """What a hook is told beside the observations. `actions` [n, ...] are those it may replace, read-only; `episodes`
    and `users` (hashes), one a row, are empty strings where there is none."""

    policy: str
    version: str
    arm: str
    actions: Array
    episodes: Sequence[str]
    users: Sequence[str]


Hook = Callable[[Any, Context], Any]
"""`override(observation, context)`: None leaves all to the policy; else actions [n, ...] for all rows, or a pair of
actions and a mask bool [n] of those that it overrides. `observation` is an array [n, ...], or a dict of them."""


def directories() -> list[Path]:
    """Where hooks may come from: the Bento's own code, then what this machine's operator allows."""
    found = [Path(__file__).resolve().parents[2] / HOOKS]
    allowed = os.environ.get("AIRLOCK_HOOKS")
    return [*found, Path(allowed)] if allowed else found


def load(manifest: Manifest) -> Hook | None:
    """The hook that a package asks for, or None. Raises PackageError where it is not at hand, or is another."""
    named = manifest.serve.override_hook
    if named is None:
        return None
    module, _, function = named.partition(":")
    wanted = manifest.files.get(HOOK_FILE)
    if wanted is None or not module.isidentifier() or not function.isidentifier():
        raise PackageError(f"serve.override_hook {named!r}: the package's manifest has no {HOOK_FILE} for it")
    path = next((one / f"{module}.py" for one in directories() if (one / f"{module}.py").is_file()), None)
    if path is None:
        raise PackageError(
            f"serve.override_hook {named!r} is not among this server's code, and a gateway runs none that came with a "
            "package: serve the built Bento, or name a directory that has it in AIRLOCK_HOOKS"
        )
    # read once: what is run is what was checked
    source = path.read_bytes()
    came = hashlib.sha256(source).hexdigest()
    if came != wanted.sha256:
        raise PackageError(f"{path}: digest mismatch: expected the package's hook, sha256 {wanted.sha256}, came {came}")
    scope: dict[str, Any] = {"__name__": f"airlock_hook_{module}", "__file__": str(path)}
    try:
        exec(compile(source, str(path), "exec"), scope)
    except Exception as error:
        raise PackageError(f"{path}: the hook does not load: {type(error).__name__}: {error}") from error
    found = scope.get(function)
    if not callable(found):
        raise PackageError(f"{path}: expected a function {function!r}, came {type(found).__name__}")
    hook: Hook = found
    return hook
