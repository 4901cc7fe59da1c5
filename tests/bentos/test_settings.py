"""Secrets and addresses from the environment, or from the files that containers are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from bentos import settings


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-a-file\n")
    monkeypatch.delenv("AIRLOCK_ADMIN_TOKEN", raising=False)
    monkeypatch.setenv("AIRLOCK_ADMIN_TOKEN_FILE", str(tmp_path / "token"))
    assert settings.secret("admin_token") == "of-a-file"
    monkeypatch.setenv("AIRLOCK_ADMIN_TOKEN", "of-the-variable")
    assert settings.secret("admin_token") == "of-the-variable"


def test_so_may_the_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql+psycopg://airlock:word@host/airlock\n")
    monkeypatch.setenv("AIRLOCK_DATABASE_URL_FILE", str(tmp_path / "url"))
    assert settings.database_url() == "postgresql+psycopg://airlock:word@host/airlock"


@pytest.mark.parametrize(("content", "error"), [("\n", ValueError), (None, FileNotFoundError)])
def test_a_file_that_holds_nothing_is_never_replaced_by_a_new_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, error: type[Exception]
) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    monkeypatch.delenv("AIRLOCK_EPISODE_KEY", raising=False)
    monkeypatch.setenv("AIRLOCK_EPISODE_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(error, match="key"):
        settings.secret("episode_key")
