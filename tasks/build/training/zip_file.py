"""What a Stable-Baselines3 zip says of itself in plain JSON: read without unpickling anything."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from tasks.build.training.algorithms import CLASSES
from tasks.errors import Misconfigured

NEEDED = frozenset({"data", "policy.pth"})


def read_data(zip_path: Path, unpacked_limit_mb: float = float("inf")) -> dict[str, Any]:
    """The `data` of an SB3 zip: hyperparameters as JSON; what was pickled stands there as text, unopened.

    Raises Misconfigured for a file that is missing, no zip, truncated, damaged, of another kind, or that unpacks to
    more than `unpacked_limit_mb`.
    """
    if not zip_path.is_file():
        raise Misconfigured(f"{zip_path}: no such file; expected a zip saved by Stable-Baselines3")
    try:
        with zipfile.ZipFile(zip_path) as archive:
            _check_names(zip_path, set(archive.namelist()))
            # zipfile never unpacks more of an entry than the entry declares, so that the declared sizes can be trusted.
            unpacked = sum(entry.file_size for entry in archive.infolist()) / 2**20
            if unpacked > unpacked_limit_mb:
                raise Misconfigured(
                    f"{zip_path}: unpacks to {unpacked:.0f} MB, {unpacked_limit_mb:.0f} MB are allowed; "
                    "raise --memory-limit if that is a real model"
                )
            if broken := archive.testzip():
                raise Misconfigured(f"{zip_path}: damaged: {broken} fails its checksum; copy the file again")
            document = json.loads(archive.read("data"))
    except PermissionError as error:
        raise Misconfigured(f"{zip_path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"{zip_path}: not a Stable-Baselines3 zip: its `data` is not JSON: {error}") from error
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise Misconfigured(f"{zip_path}: not a zip, or a truncated one: {error}; copy the file again") from error
    if not isinstance(document, dict):
        raise Misconfigured(f"{zip_path}: not a Stable-Baselines3 zip: its `data` is no JSON object")
    return document


def _check_names(zip_path: Path, names: set[str]) -> None:
    if missing := sorted(NEEDED - names):
        raise Misconfigured(
            f"{zip_path}: not a Stable-Baselines3 zip, or a truncated one: it has no {missing}; "
            f"it holds {sorted(names)[:8]}"
        )


def guess_algorithm(zip_path: Path) -> str:
    """The algorithm of an SB3 zip, from its plain JSON alone.

    Raises Misconfigured when the file is no SB3 zip, or when its algorithm cannot be told.
    """
    document = read_data(zip_path)
    if algorithm := algorithm_of(document):
        return "ppo_lstm" if algorithm == "ppo" and _has_lstm(zip_path) else algorithm
    raise Misconfigured(
        f"{zip_path}: cannot tell its algorithm (policy of module {_module(document, 'policy_class')!r}); "
        f"name it with --algorithm: one of {', '.join(sorted(CLASSES))}"
    )


def algorithm_of(document: dict[str, Any]) -> str | None:
    """The algorithm whose hyperparameters these are; None where no algorithm has them.

    Hyperparameters tell, not the class of the policy, which may be a user's own. What sets PPO's relatives apart is
    the module of the policy or of its rollout buffer.
    """
    if "cg_max_steps" in document:
        return "trpo"
    if "n_delta" in document:
        return "ars"
    if "top_quantiles_to_drop_per_net" in document:
        return "tqc"
    if "exploration_fraction" in document:
        return "qrdqn" if "n_quantiles" in document else "dqn"
    if "target_entropy" in document:
        return "crossq" if "policy_delay" in document else "sac"
    if "target_policy_noise" in document:
        return "ddpg" if _is_ddpg(document) else "td3"
    if "clip_range" in document:
        modules = _module(document, "policy_class") + " " + _module(document, "rollout_buffer_class")
        if "maskable" in modules or "ppo_mask" in modules:
            return "ppo_mask"
        return "ppo_lstm" if "recurrent" in modules else "ppo"
    return "a2c" if "gae_lambda" in document else None


def _has_lstm(zip_path: Path) -> bool:
    """Whether weights are those of a recurrent policy, of whatever class: their names stand in the file as they are."""
    with zipfile.ZipFile(zip_path) as archive:
        return b"lstm_actor." in archive.read("policy.pth")


def _is_ddpg(document: dict[str, Any]) -> bool:
    """SB3's DDPG is TD3 with one critic, no delay and no smoothing."""
    return document.get("policy_delay") == 1 and document.get("target_noise_clip") == 0.0


def _module(document: dict[str, Any], name: str) -> str:
    described = document.get(name)
    return str(described.get("__module__", "")) if isinstance(described, dict) else ""


def is_pickled(value: Any) -> bool:
    """Whether a value of `data` stands there as a pickle."""
    return isinstance(value, dict) and ":serialized:" in value
