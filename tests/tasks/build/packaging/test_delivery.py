"""Delivery: a package appears whole or not at all, an identical one is kept, and nothing else is ever harmed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bentos import package
from tasks import sandbox
from tasks.build.packaging import delivery
from tasks.build.packaging.delivery import Order, deliver, look_over, policy_name
from tasks.build.training.zoo import Layout
from tasks.errors import Misconfigured, Rejected

Make = Callable[..., dict[str, Any]]


def _silent(_step: str) -> None:
    """Hears nothing."""


@pytest.fixture(scope="module", autouse=True)
def _one_commit() -> Iterator[None]:
    """The code is of one commit for as long as these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRLOCK_GIT_SHA", "0" * 40)
        yield


@pytest.fixture(scope="module")
def real(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that was really exported, from a short PPO training on CartPole."""
    out = tmp_path_factory.mktemp("real") / "package"
    document = deliver(Order(trained / "model.zip", out, environment="CartPole-v1"), _silent)
    assert document["identical"] is False
    return out


@pytest.fixture
def make(real: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Instead of the minute that exporting takes, the process apart copies the real package; the requests it got."""
    requests: list[dict[str, Any]] = []

    def run(module: str, request: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        assert module == "tasks.build.packaging.from_zip"
        requests.append(request)
        directory = Path(request["directory"])
        shutil.copytree(real, directory, dirs_exist_ok=True)
        manifest = package.read_manifest(directory)
        manifest.training["zip"] = request["source"]
        return {"package_sha256": package.write_manifest(directory, manifest), "seconds": {}}

    monkeypatch.setattr(sandbox, "run", run)
    return requests


def _order(trained: Path, out: Path, **options: Any) -> Order:
    return Order(trained / "model.zip", out, **{"environment": "CartPole-v1", **options})


def _content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_delivered_package_is_whole_and_says_where_it_is_from(real: Path, trained: Path) -> None:
    look_over(real)
    manifest = package.read_manifest(real)
    assert manifest.name == "cart_pole"
    assert manifest.training["zip"]["sha256"] == package.sha256(trained / "model.zip")
    assert manifest.environment["id"] == "CartPole-v1"
    assert manifest.parity["equal"] is True
    assert manifest.parity["source"].startswith("on-policy")
    assert manifest.parity["returns"]["episodes"] == 16
    assert manifest.parity["returns"]["original"] == manifest.parity["returns"]["exported"]
    assert manifest.baselines["returns"]["count"] == 16
    assert [path.name for path in real.parent.iterdir()] == ["package"]


def test_the_same_zip_gives_the_same_bytes_and_is_not_made_again(real: Path, trained: Path, tmp_path: Path) -> None:
    order = _order(trained, real)
    before = _content(real)
    document = deliver(order, _silent)
    assert document["identical"] is True
    assert document["package_sha256"] == package.sha256(real / package.MANIFEST)
    assert _content(real) == before
    again = tmp_path / "again"
    deliver(_order(trained, again), _silent)
    assert _content(again) == before


def test_parents_are_made_and_an_empty_directory_is_taken(trained: Path, tmp_path: Path, make: Any) -> None:
    out = tmp_path / "a" / "b" / "c"
    deliver(_order(trained, out), _silent)
    look_over(out)
    (tmp_path / "empty").mkdir()
    deliver(_order(trained, tmp_path / "empty"), _silent)
    look_over(tmp_path / "empty")


def test_what_else_is_there_is_refused_and_replaced_only_by_force(trained: Path, tmp_path: Path, make: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(Misconfigured, match="holds something else; choose another --out, or replace it with --force"):
        deliver(_order(trained, out), _silent)
    assert _content(out) == {"notes.txt": b"mine"}
    assert make == []
    deliver(_order(trained, out, force=True), _silent)
    look_over(out)
    assert not (out / "notes.txt").exists()
    with pytest.raises(Misconfigured, match="holds another policy package"):
        deliver(_order(trained, out, name="another"), _silent)
    assert package.read_manifest(out).name == "cart_pole"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_package_that_was_tampered_with_is_not_identical(trained: Path, tmp_path: Path, make: Any) -> None:
    out = tmp_path / "out"
    deliver(_order(trained, out), _silent)
    with (out / "policy.ts").open("ab") as file:
        file.write(b"x")
    with pytest.raises(Misconfigured, match="holds another policy package"):
        deliver(_order(trained, out), _silent)
    deliver(_order(trained, out, force=True), _silent)
    look_over(out)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_way_is_left_alone(trained: Path, tmp_path: Path, force: bool, make: Any) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(Misconfigured, match="is a file, not a directory"):
        deliver(_order(trained, out, force=force), _silent)
    with pytest.raises(Misconfigured, match="cannot be written"):
        deliver(_order(trained, out / "below", force=force), _silent)
    assert out.read_text() == "mine"


def test_force_never_replaces_what_holds_the_zip_or_the_caller(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    shutil.copy(trained / "model.zip", tmp_path / "model.zip")
    with pytest.raises(Misconfigured, match=r"holds .*model\.zip; choose another --out"):
        deliver(_order(tmp_path, tmp_path, force=True), _silent)
    below = tmp_path / "project" / "src"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    with pytest.raises(Misconfigured, match="choose another --out"):
        deliver(_order(trained, tmp_path / "project", force=True), _silent)
    assert below.is_dir()


def test_a_link_is_followed(trained: Path, tmp_path: Path, make: Any) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    deliver(_order(trained, tmp_path / "link"), _silent)
    look_over(tmp_path / "target")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("error", [Misconfigured("no"), Rejected("no"), KeyboardInterrupt()])
def test_whatever_ends_it_nothing_is_left(
    error: BaseException, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_module: str, request: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        (Path(request["directory"]) / "policy.onnx").write_text("half")
        raise error

    monkeypatch.setattr(sandbox, "run", run)
    with pytest.raises(type(error)):
        deliver(_order(trained, tmp_path / "new" / "out"), _silent)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(delivery, "put", full)
    with pytest.raises(Misconfigured, match="cannot be written: No space left on device"):
        deliver(_order(trained, tmp_path / "out"), _silent)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_does_not_match_its_digests_is_not_put_in_place(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    run = sandbox.run

    def broken(*arguments: Any, **options: Any) -> dict[str, Any]:
        made = run(*arguments, **options)
        (Path(arguments[1]["directory"]) / "policy.onnx").write_bytes(b"cut")
        return made

    monkeypatch.setattr(sandbox, "run", broken)
    with pytest.raises(package.PackageError, match="digest mismatch"):
        deliver(_order(trained, tmp_path / "out"), _silent)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed_and_what_another_writes_is_not(
    trained: Path, tmp_path: Path, make: Any
) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; from tasks.build.packaging.atomic_directory import written_aside\n"
        f"with written_aside(Path({str(out)!r})) as scratch:\n"
        "    (scratch / 'half').touch(); sys.stdout.write('written\\n'); sys.stdout.flush(); time.sleep(600)\n"
    )
    killed, living = (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    for process in (killed, living):
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
    killed.kill()
    killed.wait()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"out.partial-{killed.pid}", f"out.partial-{living.pid}"}
    try:
        deliver(_order(trained, out), _silent)
        look_over(out)
        assert {path.name for path in tmp_path.iterdir()} == {"out", f"out.partial-{living.pid}"}
    finally:
        living.kill()
        living.wait()


def test_a_terminated_export_cleans_up_after_itself(trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tasks.cli", "export", str(trained / "model.zip"), "--out", str(tmp_path / "out")]
    code = "import sys; from tasks.cli import main; sys.argv = sys.argv[1:]; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *command[2:]], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not any(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "file", "name"),
    [
        ("CartPole-v1", "model.zip", "cart_pole"),
        ("ALE/Pong-v5", "model.zip", "pong"),
        ("BipedalWalkerHardcore-v3", "model.zip", "bipedal_walker_hardcore"),
        (None, "My best Model!.zip", "my_best_model"),
        (None, "2024-run.zip", "policy_2024_run"),
        (None, "é.zip", "policy"),
    ],
)
def test_a_policy_is_named_after_its_environment_or_its_zip(environment: str | None, file: str, name: str) -> None:
    assert policy_name(Layout(environment), Path(file)) == name


def test_the_document_is_json(real: Path, trained: Path) -> None:
    document = deliver(_order(trained, real), _silent)
    assert json.loads(json.dumps(document)) == document
