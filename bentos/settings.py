"""Where Airlock keeps its state, its secrets and its addresses: all by environment, with local defaults."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[1]


def home() -> Path:
    """`$AIRLOCK_HOME`, by default `.airlock` beside the project's pyproject.toml (else in the working directory)."""
    configured = os.environ.get("AIRLOCK_HOME")
    if configured:
        path = Path(configured).expanduser().resolve()
    elif (_REPOSITORY / "pyproject.toml").exists():
        path = _REPOSITORY / ".airlock"
    else:
        path = Path.cwd() / ".airlock"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def secret(name: str) -> str:
    """The secret `name` ("admin_token", "episode_key", ...).

    `$AIRLOCK_<NAME>` or the file named by `$AIRLOCK_<NAME>_FILE` wins; otherwise it is read from
    `$AIRLOCK_HOME/secrets/<name>`, which is generated (mode 0600) on first use. Two processes that race for the first
    use agree on one value. Raises ValueError where the file is empty, OSError where it cannot be read.
    """
    value = _given(f"AIRLOCK_{name.upper()}")
    if value:
        return value
    path = home() / "secrets" / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


def _given(variable: str) -> str | None:
    """The variable's value, or the content of the file that `<variable>_FILE` names (a container's secret)."""
    value, file = os.environ.get(variable), os.environ.get(f"{variable}_FILE")
    if value or not file:
        return value
    content = Path(file).read_text().strip()
    if not content:
        raise ValueError(f"{variable}_FILE names {file}, which is empty")
    return content


def database_url() -> str:
    """SQLAlchemy URL of Airlock's own database, by default SQLite under the home.

    `$AIRLOCK_DATABASE_URL`, or the content of the file named by `$AIRLOCK_DATABASE_URL_FILE`.
    """
    return _given("AIRLOCK_DATABASE_URL") or f"sqlite:///{home() / 'airlock.db'}"


def port(service: str, default: int) -> int:
    """The port of an embedded service: `$AIRLOCK_<SERVICE>_PORT`, else the default."""
    return int(os.environ.get(f"AIRLOCK_{service.upper()}_PORT", default))


def airflow_url() -> str:
    """Base URL of the Airflow API server: `$AIRLOCK_AIRFLOW_URL`, by default the embedded one."""
    return os.environ.get("AIRLOCK_AIRFLOW_URL") or f"http://127.0.0.1:{port('airflow', 8080)}"


def mlflow_url() -> str:
    """Base URL of the MLflow server: `$MLFLOW_TRACKING_URI`, by default the embedded one."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"http://127.0.0.1:{port('mlflow', 5000)}"


def gateway_url() -> str:
    """Base URL of the gateway: `$AIRLOCK_GATEWAY_URL`, by default the embedded one."""
    return os.environ.get("AIRLOCK_GATEWAY_URL") or f"http://127.0.0.1:{port('gateway', 3000)}"


def poll_seconds() -> float:
    """How often a gateway asks the registry: `$AIRLOCK_POLL_SECONDS`, by default 1."""
    return float(os.environ.get("AIRLOCK_POLL_SECONDS", 1.0))
