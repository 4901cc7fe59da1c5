"""`airlock export` as a person calls it: exit codes, one line for an error, one JSON document, nothing half written."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos import package
from tasks import sandbox
from tasks.build.packaging import delivery
from tasks.cli import app
from tasks.errors import Misconfigured

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `airlock export` in this process (what it opens it opens in another): exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("AIRLOCK_DEBUG", raising=False)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["airlock", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


class _Runs:
    """Pickles to a call: what a zip from somewhere may do when it is opened."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _poisoned(source: Path, target: Path, *call: Any) -> Path:
    """A real zip whose `policy_class` unpickles to a call."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                document = json.loads(content)
                document["policy_class"][":serialized:"] = base64.b64encode(pickle.dumps(_Runs(*call))).decode()
                content = json.dumps(document).encode()
            new.writestr(name, content)
    return target


def test_a_zip_in_the_layout_of_the_zoo_becomes_a_package_in_one_command(
    export: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zip_path = tmp_path / "ppo" / "CartPole-v0_1" / "CartPole-v0.zip"
    zip_path.with_suffix("").mkdir(parents=True)
    (zip_path.with_suffix("") / "args.yml").write_text("env: CartPole-v77\n")
    shutil.copy(trained / "model.zip", zip_path)
    out = tmp_path / "out"
    code, printed, said = export(zip_path, "--out", out, "--name", "mine", "--json")
    assert (code, said.count("Traceback")) == (0, 0), said
    document = json.loads(printed)
    assert document["package"] == str(out)
    assert document["package_sha256"] == package.sha256(out / "policy.json")
    assert document["environment"]["id"] == "CartPole-v1"
    assert "CartPole-v77" in document["environment"]["note"]
    assert document["parity"]["equal"] is True
    assert document["parity"]["observations"] >= 4_096
    assert document["parity"]["returns"]["equal"] is True
    assert {"import", "open", "play", "export", "returns", "assemble", "total"} <= set(document["seconds"])
    assert "exporting and proving it equal" in said
    assert package.load(out).predict(np.zeros(4, np.float32)) in (0, 1)

    code, printed, _ = export(zip_path, "--out", out, "--name", "mine")
    assert code == 0
    assert "this package is there already" in printed
    assert f"airlock serve {out}" in printed

    code, _, said = export(zip_path, "--out", out, "--name", "another")
    assert (code, said.splitlines()[-1]) == (
        1,
        f"error: {out}: holds another policy package; choose another --out, or replace it with --force",
    )


def test_without_its_environment_rows_are_drawn_and_the_manifest_says_so(
    export: Run, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, said = export(trained / "model.zip", "--out", out, "--env", "Unheard-v3")
    assert code == 0, said
    assert "not played: environment 'Unheard-v3' cannot be made" in printed
    manifest = package.read_manifest(out)
    assert manifest.environment["id"] == "Unheard-v3"
    assert "not played" in manifest.environment["note"]
    assert manifest.parity["source"] == "observation space"
    assert manifest.parity["observations"] >= 4_096
    assert manifest.parity["equal"] is True
    assert "cannot be made" in manifest.parity["returns"]["skipped"]
    assert manifest.baselines["returns"] == {"count": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("absent.zip", "--out", "out"), "absent.zip: no such file"),
        (("text.zip",), "--out"),
        (("text.zip", "--out", "out", "--algorithm", "dreamer"), "unknown algorithm 'dreamer'"),
        (("text.zip", "--out", "out", "--vecnormalize", "absent.pkl"), "absent.pkl: no such file"),
        (("text.zip", "--out", "out", "--variants", "int4"), "int4"),
        (("text.zip", "--out", "out", "--time-limit", "0"), "--time-limit"),
        (("text.zip", "--out", "out", "--name", "My Policy"), "--name"),
    ],
)
def test_a_wrong_call_exits_with_2_and_writes_nothing(
    export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.zip").write_text("hello")
    code, out, err = export(*arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["text.zip"]


def test_a_file_that_is_no_model_is_one_line_and_writes_nothing(export: Run, trained: Path, tmp_path: Path) -> None:
    whole = (trained / "model.zip").read_bytes()
    for content in (b"hello", whole[: len(whole) // 2]):
        path = tmp_path / "model.zip"
        path.write_bytes(content)
        code, out, err = export(path, "--out", tmp_path / "a" / "out")
        assert (code, out) == (1, "")
        (line,) = err.splitlines()
        assert line.startswith(f"error: {path}: not a ")
        assert "or a truncated one" in line
        assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


@pytest.mark.parametrize(
    ("call", "limits", "said"),
    [
        ((time.sleep, 600), ("--time-limit", "30"), "took longer than 30 s"),
        ((os._exit, 0), (), "ended with code 0 before it was done"),
        ((eval, "[].append('x') or (_ for _ in ()).throw(KeyError('boom'))"), (), "its policy_class cannot be read"),
    ],
)
def test_a_zip_that_does_something_else_when_it_is_opened_is_one_line(
    export: Run, trained: Path, tmp_path: Path, call: tuple[Any, ...], limits: tuple[str, ...], said: str
) -> None:
    path = _poisoned(trained / "model.zip", tmp_path / "model.zip", *call)
    code, out, err = export(path, "--out", tmp_path / "out", *limits)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_force_and_limits_are_passed_on(
    export: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[delivery.Order] = []

    def deliver(order: delivery.Order, _say: Any) -> dict[str, Any]:
        orders.append(order)
        raise Misconfigured("far enough")

    monkeypatch.setattr(delivery, "deliver", deliver)
    given = (trained / "model.zip", "--out", tmp_path / "out", "--force", "--variants", "all")
    assert export(*given, "--time-limit", "7", "--memory-limit", "900")[0] == 1
    (order,) = orders
    assert (order.force, order.variants, order.limits) == (True, "all", sandbox.Limits(7, 900))


def test_the_waiting_process_never_opens_the_zip_nor_loads_torch(trained: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks import sandbox\n"
        "from tasks.build.packaging import delivery\n"
        "heavy = ('torch', 'stable_baselines3', 'mlflow')\n"
        "sandbox.run = lambda *_, **__: sys.exit(sum(name in sys.modules for name in heavy))\n"
        f"order = delivery.Order(Path({str(trained / 'model.zip')!r}), Path({str(tmp_path / 'out')!r}))\n"
        "delivery.deliver(order, print)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []
