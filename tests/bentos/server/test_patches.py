"""What is private to other libraries is used only in the versions that it was written for."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bentos.server import patches

PROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


def test_installed_versions_are_those_that_the_patches_were_written_for() -> None:
    patches.check()


def test_another_version_is_refused_by_name_with_what_was_expected() -> None:
    installed = metadata.version("uvicorn")
    with pytest.raises(ImportError, match=rf"uvicorn {installed} \(written for 0\.1\.x\)") as refused:
        patches.check({"uvicorn": "0.1.", "bentoml": patches.WRITTEN_FOR["bentoml"]})
    assert "bentoml" not in str(refused.value)


@pytest.mark.parametrize("name", sorted(patches.WRITTEN_FOR))
def test_the_project_asks_for_no_version_that_would_be_refused(name: str) -> None:
    declared = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    (requirement,) = (one for one in map(Requirement, declared) if one.name == name)
    major, minor = map(int, patches.WRITTEN_FOR[name].rstrip(".").split("."))
    assert f"{major}.{minor}.99" in requirement.specifier
    assert f"{major}.{minor + 1}.0" not in requirement.specifier
    assert f"{major + 1}.0.0" not in requirement.specifier
