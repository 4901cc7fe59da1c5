"""An image built without a container engine: the Dockerfile's own instructions, in directories instead of layers.

COPY and RUN are carried out as they stand, except that the few absolute paths of the images lie below one directory.
The base image is this machine's Python. Users, ports and file systems are not made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy import dockerfile
from tests.deploy.dockerfile import REPOSITORY, Instruction

ROOTS = ("/opt/airlock", "/build", "/var/lib/airlock")
"""What the Dockerfile writes to."""
PROJECT = "project"
"""The stage that is copied from by others; all others of a target come one after another in one file system."""


class NativeImage:
    """A target of the Dockerfile, below `root`."""

    def __init__(self, target: str, root: Path) -> None:
        self.target = target
        self.root = root

    def path(self, inside: str, stage: str = "") -> Path:
        """Where a path of the image lies, or of another stage."""
        return self.root / (PROJECT if stage == PROJECT else "image") / inside.lstrip("/")

    def native(self, text: str, stage: str = "") -> str:
        """The text with the image's paths as they are here."""
        for path in ROOTS:
            text = text.replace(path, str(self.path(path, stage)))
        return text

    def environment(self) -> dict[str, str]:
        """The variables of a container of the target. Packages come from where this machine's pip takes them."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
        settings = Path.home() / ".config" / "pip" / "pip.conf"
        kept |= {"PIP_CONFIG_FILE": str(settings)} if settings.exists() else {}
        own = {name: self.native(value) for name, value in dockerfile.environment(self.target).items()}
        path = os.pathsep.join((str(Path(sys.base_exec_prefix) / "bin"), os.defpath))
        return kept | own | {"PATH": own["PATH"].replace("$PATH", path)}

    def command(self) -> list[str]:
        """What a container of the target runs."""
        return [self.native(word) for word in dockerfile.command(self.target)]

    def build(self) -> None:
        """Carry out the stages that the target copies from. Raises RuntimeError with what a RUN said when it fails."""
        base = len(dockerfile.instructions("base"))
        for stage in (PROJECT, f"{self.target}-packages"):
            for path in ROOTS:
                self.path(path, stage).mkdir(parents=True)
            for each in dockerfile.instructions(stage)[base:]:
                if each.name == "RUN":
                    self._run(each, stage)
                elif each.name == "COPY":
                    self._copy(each, stage)

    def _run(self, each: Instruction, stage: str) -> None:
        done = subprocess.run(
            ["sh", "-c", self.native(each.text, stage)],
            cwd=self.path("/build", stage),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"RUN {each.text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")

    def _copy(self, each: Instruction, stage: str) -> None:
        words = each.words
        source_stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        *sources, target = words
        for source in sources:
            found = self.path(source, source_stage) if source_stage else REPOSITORY / source
            there = self.path("/build", stage) / target
            if found.is_dir():
                shutil.copytree(found, there, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(found, there)
