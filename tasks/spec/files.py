"""Policy specs as files: validated all at once, described by a JSON schema, and each with its DAG file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bentos import settings as home
from tasks.spec.sections import PolicySpec, Problem, load_all, policies_directory

_DAG_FILE = '''\
"""Airlock DAGs of the policy spec policies/{policy}.yaml."""

from dags.factory import dags_of  # airflow dag

globals().update(dags_of("{policy}"))
'''


@dataclass(frozen=True)
class Validation:
    """What `airlock policies validate` found: specs that hold, every problem, and what is merely odd."""

    valid: tuple[str, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "ok": not self.problems,
            "valid": list(self.valid),
            "problems": [vars(problem) for problem in self.problems],
            "warnings": list(self.warnings),
        }


def dags_directory() -> Path:
    """Where the DAG files stand: `dags/` of the project, or `$AIRLOCK_HOME/dags` where `$AIRLOCK_POLICIES` is set."""
    if os.environ.get("AIRLOCK_POLICIES"):
        return home.home() / "dags"
    return Path(__file__).resolve().parents[2] / "dags"


def dag_file(policy: str) -> str:
    """The text of `dags/<policy>.py`. A file for each spec, so that a broken one is that file's import error only."""
    return _DAG_FILE.format(policy=policy)


def validate(directory: Path | None = None, dags: Path | None = None) -> Validation:
    """Read every spec of `directory` and report all problems at once; a spec without its DAG file is a warning."""
    directory, dags = directory or policies_directory(), dags or dags_directory()
    specs, problems = load_all(directory)
    warnings = []
    for path in sorted(directory.glob("*.yaml")):
        target = dags / f"{path.stem}.py"
        if not target.exists():
            warnings.append(f"{path}: Airflow shows no DAGs for it until `airlock policies sync` has written {target}")
        elif "dags_of(" not in target.read_text(encoding="utf-8"):
            warnings.append(f"{path}: Airflow shows no DAGs for it: {target} is another file; rename the policy")
    if not specs and not problems:
        warnings.append(f"{directory} holds no policy spec (*.yaml)")
    return Validation(tuple(spec.name for spec in specs), tuple(problems), tuple(warnings))


def sync(directory: Path | None = None, dags: Path | None = None) -> list[Path]:
    """Write the DAG file of every spec that has none, broken specs included; returns the files written."""
    directory, dags = directory or policies_directory(), dags or dags_directory()
    dags.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(directory.glob("*.yaml")):
        target = dags / f"{path.stem}.py"
        if path.stem.isidentifier() and not target.exists():
            target.write_text(dag_file(path.stem), encoding="utf-8")
            written.append(target)
    return written


def schema() -> dict[str, Any]:
    """The JSON schema of a policy spec."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PolicySpec.model_json_schema()}
