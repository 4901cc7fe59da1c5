"""The documents name what there is: pages, commands, variables, metrics, checks and alerts. And all of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from bentos.server import metrics
from tasks.alerts import rules
from tasks.cli.app import app
from tasks.spec.reference import reference
from tasks.spec.safety import Section
from tasks.spec.sections import POST_DEPLOYMENT, PRE_DEPLOYMENT, PolicySpec

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("bentos", "tasks", "plugins", "dags")
PORTS = {f"AIRLOCK_{service}_PORT" for service in ("AIRFLOW", "MLFLOW", "GATEWAY")}
INTERNAL = {"AIRLOCK_COMPONENT"}
"""What Airlock's processes tell each other."""

page = pytest.mark.parametrize("page", PAGES, ids=lambda one: one.name)


def _words(text: str) -> set[str]:
    """Everything between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def _first_cells(path: str) -> set[str]:
    """What the first cells of a page's tables name."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / path).read_text(), re.MULTILINE)
    return {word for row in rows for word in _words(row)}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@page
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        known = map(_anchor, re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)) if anchor else ()
        if not target.exists() or (anchor and anchor not in known):
            dead.append(link)
    assert not dead


def test_every_page_and_picture_is_linked() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    }
    assert {*PAGES[1:], *(ROOT / "docs" / "images").iterdir()} <= linked


def _commands(text: str) -> list[str]:
    """Lines of examples that call `airlock`, without their comments, and calls within sentences."""
    lines = re.findall(r"^ {4}(?:[A-Z_]+=\S+ )*airlock (.+)$", text, re.MULTILINE)
    return [line.partition(" #")[0] for line in lines] + re.findall(r"`airlock ([^`\n]+)`", text)


@page
def test_commands_and_their_options_are_there(page: Path) -> None:
    unknown = []
    for line in _commands(page.read_text()):
        command: Any = typer.main.get_command(app)
        words = shlex.split(line.translate(str.maketrans("[]|…", "    ")))
        while (below := getattr(command, "commands", None)) and words and not words[0].startswith("-"):
            command = below.get(words.pop(0))
        options = {"--help", *(name for one in command.params for name in one.opts)} if command else set()
        if command is None or not {word for word in words if word.startswith("--")} <= options:
            unknown.append(line)
    assert not unknown


def test_every_variable_is_explained() -> None:
    code = "".join(file.read_text() for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    read = set(re.findall(r'"((?:AIRLOCK|MLFLOW_TRACKING)_[A-Z_]+)"', code)) | PORTS | {"PROMETHEUS_URL"}
    read |= {
        f"AIRLOCK_{name.upper()}"
        for name in re.findall(r'settings\.secret\("([a-z_]+)"\)', code)
        if "airflow" not in name
    }
    explained = {word for word in _first_cells("docs/operating.md") if re.fullmatch(r"[A-Z_]{6,}", word)}
    assert explained == read - INTERNAL


def test_every_metric_is_explained() -> None:
    made = set(re.findall(r'"(rl_[a-z_]+)"', Path(metrics.__file__).read_text()))
    told = {word.partition("{")[0].removesuffix("_total") for word in _first_cells("docs/monitoring.md")}
    assert {name for name in told if name.startswith("rl_")} == made


def test_every_check_and_every_alert_is_explained() -> None:
    assert _first_cells("docs/checklists.md") == {*PRE_DEPLOYMENT, *POST_DEPLOYMENT}
    table = (ROOT / "docs/monitoring.md").read_text()
    assert {name: len(re.findall(rf"^\| `{name}` \|", table, re.MULTILINE)) for name in rules.NAMES} == dict.fromkeys(
        rules.NAMES, 2
    )


def test_the_page_of_the_spec_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["policies", "schema", "--markdown"])
    assert printed.exit_code == 0
    assert printed.output == reference() == (ROOT / "docs/spec.md").read_text()


def test_every_field_of_the_spec_is_explained() -> None:
    """Read from the models, not from the schema that the page is made of."""
    explained = {word.replace("[]", "") for word in _first_cells("docs/spec.md")}
    sections, found = [("", PolicySpec)], set()
    while sections:
        path, section = sections.pop()
        for name, field in section.model_fields.items():
            found.add(f"{path}{name}")
            sections += [(f"{path}{name}.", one) for one in _sections(field.annotation)]
    assert explained == found
    assert not [
        row for row in (ROOT / "docs/spec.md").read_text().splitlines() if row.startswith("|") and "|  |" in row
    ]


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections within a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
