"""The Dockerfile, read: its stages, what each inherits, and how a container of it is started."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile"
TARGETS = ("gateway", "control", "worker", "mlflow")


@dataclass(frozen=True)
class Instruction:
    """One instruction, such as RUN, with all that follows it, lines joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The text as a shell would split it."""
        return shlex.split(self.text)

    @property
    def listed(self) -> list[str]:
        """The text in its exec form. Raises ValueError for the shell form."""
        return [str(word) for word in json.loads(self.text[self.text.index("[") :])]


@dataclass
class Stage:
    """A stage: its name, what it begins from, and its own instructions in order."""

    name: str
    source: str
    own: list[Instruction] = field(default_factory=list)


@cache
def stages() -> dict[str, Stage]:
    """Every stage of the Dockerfile, by name."""
    found: dict[str, Stage] = {}
    for part in DockerfileParser(fileobj=DOCKERFILE.open("rb")).structure:
        name, text = part["instruction"].upper(), part["value"]
        if name == "FROM":
            source, stage = re.fullmatch(r"(\S+) AS (\S+)", text).groups()
            found[stage] = Stage(stage, source)
        elif name != "COMMENT":
            found[stage].own.append(Instruction(name, text))
    return found


def instructions(stage: str) -> list[Instruction]:
    """What makes up a stage, the instructions of the stages it begins from included, oldest first."""
    this = stages()[stage]
    return (instructions(this.source) if this.source in stages() else []) + this.own


def last(stage: str, name: str) -> Instruction:
    """The instruction of that name that counts."""
    return [each for each in instructions(stage) if each.name == name][-1]


def environment(stage: str) -> dict[str, str]:
    """The variables of a container. `$PATH` stands for the base image's own."""
    pairs = [word.partition("=") for each in instructions(stage) if each.name == "ENV" for word in each.words]
    return {name: value for name, _, value in pairs}


def command(stage: str) -> list[str]:
    """What a container runs: ENTRYPOINT and CMD."""
    return last(stage, "ENTRYPOINT").listed + last(stage, "CMD").listed
