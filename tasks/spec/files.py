"""Policy specs as files: validated all at once, described by a JSON schema, and each with its DAG file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bentos import settings
from tasks.errors import Misconfigured
from tasks.spec.sections import PolicySpec

_DAG_FILE = '''\
"""Airlock DAGs of the policy spec policies/{policy}.yaml."""

from dags.factory import dags_of  # airflow dag

globals().update(dags_of("{policy}"))
'''


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one spec file: where, and what was expected."""

    file: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.message}"


class SpecError(Misconfigured):
    """A spec file that does not validate; `problems` lists every one found."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def policies_directory() -> Path:
    """Where specs live: `$AIRLOCK_POLICIES`, by default `dags/policies` of the project."""
    configured = os.environ.get("AIRLOCK_POLICIES")
    return Path(configured) if configured else Path(__file__).resolve().parents[2] / "dags" / "policies"


def problems_of(file: str, error: ValidationError) -> list[Problem]:
    """Everything that pydantic found wrong with the document of a file."""
    found = []
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"]) or "(the whole file)"
        came = "" if item["type"] in ("missing", "extra_forbidden") else f"; came {item['input']!r}"
        found.append(Problem(file, field, f"{item['msg']}{came}"))
    return found


def load_file(path: Path) -> PolicySpec:
    """Read one spec. Raises SpecError with every problem: file, field, what was expected and what came."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError([Problem(str(path), "(the whole file)", f"cannot be read: {error.strerror}")]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(
            [Problem(str(path), "(the whole file)", f"not YAML: {' '.join(str(error).split())}")]
        ) from error
    if not isinstance(document, dict):
        raise SpecError(
            [
                Problem(
                    str(path),
                    "(the whole file)",
                    f"expected a mapping of fields, came {type(document).__name__}",
                )
            ]
        )
    try:
        spec = PolicySpec.model_validate(document)
    except ValidationError as error:
        raise SpecError(problems_of(str(path), error)) from error
    if spec.name != path.stem:
        raise SpecError([Problem(str(path), "name", f"must be the file's name, {path.stem!r}; came {spec.name!r}")])
    return spec


def load(policy: str) -> PolicySpec:
    """The spec of `policy`. Raises SpecError when it is missing or broken."""
    path = policies_directory() / f"{policy}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise SpecError([Problem(str(path), "(the whole file)", f"no such policy spec; known policies: {known}")])
    return load_file(path)


def load_all(directory: Path | None = None) -> tuple[list[PolicySpec], list[Problem]]:
    """Every spec that validates, by name, and every problem of those that do not."""
    specs: list[PolicySpec] = []
    problems: list[Problem] = []
    for path in sorted((directory or policies_directory()).glob("*.yaml")):
        try:
            specs.append(load_file(path))
        except SpecError as error:
            problems.extend(error.problems)
    return specs, problems


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
        return settings.home() / "dags"
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
