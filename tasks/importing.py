"""Import Stable-Baselines3 zips. They are pickles: here is the only place that opens them.

A foreign zip is opened in a process of its own, with limits of time and memory and without this process's
environment variables, and saved again with today's classes. That guards against broken files, not against malice:
open only files you trust.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import inputs, runs
from tasks.algorithms import CLASSES, algorithm_class
from tasks.errors import Misconfigured
from tasks.inputs import Inputs, Outputs

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize

TIME_LIMIT_S = 120.0
RSS_LIMIT_MB = 3000.0
_REFUSED = 3

log = logging.getLogger(__name__)

_SIGNATURES: tuple[tuple[str, str, str], ...] = (
    ("ppo_mask", "policy_module", "common.maskable"),
    ("ppo_mask", "policy_module", "ppo_mask"),
    ("ppo_lstm", "policy_module", "recurrent"),
    ("qrdqn", "policy_module", "qrdqn"),
    ("crossq", "policy_module", "crossq"),
    ("tqc", "policy_module", "tqc"),
    ("ars", "policy_module", "ars"),
    ("sac", "policy_module", ".sac."),
    ("dqn", "policy_module", ".dqn."),
    ("trpo", "key", "cg_max_steps"),
    ("ppo", "key", "clip_range"),
    ("a2c", "key", "rms_prop_eps"),
    ("a2c", "key", "gae_lambda"),
    ("td3", "policy_module", ".td3."),
)
"""(algorithm, where, what): the first whose words are in a zip's own JSON names its algorithm."""


@dataclass(frozen=True)
class Agent:
    """A model with the normalization it was trained under: what it does is `decide` from raw observations."""

    algorithm: str
    model: BaseAlgorithm
    normalizer: VecNormalize | None

    def normalize(self, observations: Any) -> Any:
        """Raw observations (an array [n, ...], or a dict of them) as the model was trained on them."""
        return observations if self.normalizer is None else self.normalizer.normalize_obs(observations)

    def decide(self, given: Inputs) -> Outputs:
        """SB3's deterministic `predict` of raw observations, through the real VecNormalize.

        `action` [n, ...]; a recurrent policy's `next_state_h` and `next_state_c` [n, layers, hidden], too.
        """
        options: dict[str, Any] = {}
        if inputs.MASK in given:
            options["action_masks"] = given[inputs.MASK]
        if inputs.START in given:
            options["state"] = tuple(given[name].swapaxes(0, 1) for name in inputs.STATES)
            options["episode_start"] = given[inputs.START]
        observed = self.normalize(inputs.observations(given))
        action, states = self.model.predict(observed, deterministic=True, **options)
        outputs = {"action": np.asarray(action)}
        if inputs.START in given:
            outputs |= {f"next_{name}": state.swapaxes(0, 1) for name, state in zip(inputs.STATES, states, strict=True)}
        return outputs


def guess_algorithm(zip_path: Path) -> str:
    """The algorithm of an SB3 zip, from its plain JSON alone: nothing is unpickled.

    Raises Misconfigured when the file is no SB3 zip, or when its algorithm cannot be told.
    """
    document = _read_data(zip_path)
    policy_module = str((document.get("policy_class") or {}).get("__module__", ""))
    for name, where, what in _SIGNATURES:
        if what in policy_module if where == "policy_module" else what in document:
            return name
    raise Misconfigured(
        f"{zip_path}: cannot tell its algorithm (policy of module {policy_module!r}); name it: {sorted(CLASSES)}"
    )


def _read_data(zip_path: Path) -> dict[str, Any]:
    if not zip_path.is_file():
        raise Misconfigured(f"{zip_path}: no such file; expected a zip saved by Stable-Baselines3")
    try:
        with zipfile.ZipFile(zip_path) as archive:
            names = set(archive.namelist())
            missing = sorted({"data", "policy.pth"} - names)
            if missing:
                raise Misconfigured(
                    f"{zip_path}: not a Stable-Baselines3 zip, or a truncated one: it has no {missing}; "
                    f"it holds {sorted(names)[:8]}"
                )
            if broken := archive.testzip():
                raise Misconfigured(f"{zip_path}: damaged: {broken} fails its checksum; copy the file again")
            return dict(json.loads(archive.read("data")))
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise Misconfigured(f"{zip_path}: not a zip, or a truncated one: {error}; copy the file again") from error
    except ValueError as error:
        raise Misconfigured(f"{zip_path}: not a Stable-Baselines3 zip: its `data` is not JSON: {error}") from error


def find_vecnormalize(zip_path: Path) -> Path | None:
    """The VecNormalize statistics that lie beside a zip in the rl-zoo's layout (`ENV.zip`, `ENV/vecnormalize.pkl`)."""
    for candidate in (zip_path.with_suffix("") / "vecnormalize.pkl", zip_path.parent / "vecnormalize.pkl"):
        if candidate.is_file():
            return candidate
    return None


def _alias_gym() -> None:
    """Let pickles of the gym 0.21 era find their spaces in Gymnasium."""
    import gymnasium
    import gymnasium.spaces

    sys.modules.setdefault("gym", gymnasium)
    sys.modules.setdefault("gym.spaces", gymnasium.spaces)
    for name in ("box", "discrete", "multi_discrete", "multi_binary", "dict", "tuple", "space"):
        sys.modules.setdefault(f"gym.spaces.{name}", sys.modules[f"gymnasium.spaces.{name}"])


def _fresh_space(space: Any) -> Any:
    """The same space made anew: a pickled one of another version lacks attributes."""
    from gymnasium import spaces

    match type(space).__name__:
        case "Box":
            return spaces.Box(space.low, space.high, dtype=space.dtype.type)
        case "Discrete":
            return spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)))
        case "MultiDiscrete":
            return spaces.MultiDiscrete(space.nvec)
        case "MultiBinary":
            return spaces.MultiBinary(space.n)
        case "Dict":
            return spaces.Dict({name: _fresh_space(part) for name, part in space.spaces.items()})
    raise Misconfigured(f"spaces of type {type(space).__name__} are not supported")


def load_model(zip_path: Path, vecnormalize_path: Path | None = None, algorithm: str | None = None) -> Agent:
    """Open an SB3 zip (a pickle: this runs code that is in it) with its VecNormalize statistics, if any.

    Raises Misconfigured, naming the file and the cause, for a file that cannot be opened, weights that are not
    finite, or statistics of another shape.
    """
    document = _read_data(zip_path)
    name = algorithm or guess_algorithm(zip_path)
    _alias_gym()
    # What only training needs, and what old zips hold as code of another Python, is replaced instead of unpickled.
    custom = {
        "learning_rate": 0.0,
        "lr_schedule": lambda _: 0.0,
        "clip_range": lambda _: 0.0,
        "clip_range_vf": None,
        "exploration_schedule": lambda _: 0.0,
        "delta_std": lambda _: 0.0,
        "_last_obs": None,
        "_last_original_obs": None,
        "_last_episode_starts": None,
        "ep_info_buffer": None,
        "ep_success_buffer": None,
        "action_noise": None,
    }
    custom = {key: value for key, value in custom.items() if key in document}
    for key in ("observation_space", "action_space"):
        custom[key] = _fresh_space(_unpickle_field(document, key, zip_path))
    if "replay_buffer_class" in document:
        custom["replay_buffer_class"] = None
    options: dict[str, Any] = {"buffer_size": 1} if "buffer_size" in document else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = algorithm_class(name).load(zip_path, device="cpu", custom_objects={**custom, **options})
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"{zip_path}: it needs the module {error.name!r}, which cannot be imported; install it, or put it on "
            "PYTHONPATH"
        ) from error
    except Misconfigured:
        raise
    except Exception as error:
        raise Misconfigured(f"{zip_path}: cannot be opened as {name}: {type(error).__name__}: {error}") from error
    broken = [key for key, value in model.policy.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise Misconfigured(f"{zip_path}: weights that are not finite: {broken[:5]}")
    model.policy.set_training_mode(False)
    return Agent(name, model, _load_normalizer(vecnormalize_path, model) if vecnormalize_path else None)


def _unpickle_field(document: dict[str, Any], key: str, zip_path: Path) -> Any:
    from stable_baselines3.common.save_util import json_to_data

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return json_to_data(json.dumps({key: document[key]}))[key]
    except Exception as error:
        raise Misconfigured(f"{zip_path}: its {key} cannot be read: {type(error).__name__}: {error}") from error


def _load_normalizer(path: Path, model: BaseAlgorithm) -> VecNormalize:
    from stable_baselines3.common.vec_env import VecNormalize

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            normalizer = pickle.load(io.BytesIO(path.read_bytes()))  # noqa: S301 - the one place for it
    except Exception as error:
        raise Misconfigured(
            f"{path}: cannot be opened as VecNormalize statistics: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(normalizer, VecNormalize):
        raise Misconfigured(f"{path}: expected VecNormalize statistics, came {type(normalizer).__name__}")
    normalizer.training = False
    statistics = normalizer.obs_rms if normalizer.norm_obs else None
    expected = model.observation_space.shape
    if statistics is not None and not isinstance(statistics, dict):
        if statistics.mean.shape != expected:
            raise Misconfigured(
                f"{path}: statistics of shape {statistics.mean.shape}, but the model observes {expected}: they belong "
                "to another model"
            )
        if not (np.isfinite(statistics.mean).all() and np.isfinite(statistics.var).all()):
            raise Misconfigured(f"{path}: statistics that are not finite")
    return normalizer


def fetch_agent(release: runs.Release, scratch: Path) -> Agent:
    """The release's model, downloaded from its run and opened."""
    from tasks.train import MODEL, VECNORMALIZE

    directory = release.fetch("model", scratch)
    statistics = directory / Path(VECNORMALIZE).name
    return load_model(
        directory / Path(MODEL).name, statistics if statistics.exists() else None, release.spec.train.algorithm
    )


def resave(zip_path: Path, vecnormalize: Path | None, algorithm: str | None, into: Path) -> dict[str, Any]:
    """Open a zip and write it again as `model.zip` (and `vecnormalize.pkl`) into `into`; says what it was."""
    agent = load_model(zip_path, vecnormalize, algorithm)
    agent.model.save(into / "model.zip", exclude=["replay_buffer", "rollout_buffer", "_last_obs"])
    if agent.normalizer is not None:
        agent.normalizer.save(str(into / "vecnormalize.pkl"))
    return {
        "algorithm": agent.algorithm,
        "timesteps": int(agent.model.num_timesteps),
        "seed": int(agent.model.seed or 0),
        "observation_space": str(agent.model.observation_space),
        "action_space": str(agent.model.action_space),
    }


def resave_apart(
    zip_path: Path,
    into: Path,
    algorithm: str | None = None,
    vecnormalize: Path | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    rss_limit_mb: float = RSS_LIMIT_MB,
) -> dict[str, Any]:
    """`resave` in a process of its own that is ended at `time_limit_s` of wall time or `rss_limit_mb` of memory.

    Raises Misconfigured with the process's own explanation, or with the limit that it hit.
    """
    import psutil

    _read_data(zip_path)
    command = [sys.executable, "-m", "tasks.importing", str(zip_path), "--into", str(into)]
    command += ["--algorithm", algorithm] if algorithm else []
    command += ["--vecnormalize", str(vecnormalize)] if vecnormalize else []
    # Only what Python needs: a pickle that runs there finds neither tokens nor addresses in its environment.
    environment = {
        name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ
    }
    with tempfile.TemporaryDirectory() as home, (Path(home) / "output").open("w+") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, "HOME": home},
            cwd=Path(__file__).parents[1],
        )
        started = time.monotonic()
        try:
            watched = psutil.Process(process.pid)
            while (code := process.poll()) is None:
                if time.monotonic() - started > time_limit_s:
                    raise Misconfigured(f"{zip_path}: opening it took longer than {time_limit_s:g} s")
                try:
                    used = watched.memory_info().rss / 2**20
                except psutil.NoSuchProcess:
                    used = 0.0
                if used > rss_limit_mb:
                    raise Misconfigured(f"{zip_path}: opening it took more than {rss_limit_mb:g} MB of memory")
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        output.seek(0)
        said = output.read().strip()
    last = said.splitlines()[-1] if said else ""
    if code == _REFUSED:
        raise Misconfigured(str(json.loads(last)["error"]))
    if code != 0:
        raise Misconfigured(f"{zip_path}: the process that opened it ended with code {code}: {last or 'no output'}")
    return dict(json.loads(last))


def import_zip(release: runs.Release) -> dict[str, Any]:
    """The stage, for `source: zip`: open the zip the release names and keep it in the run like a trained model."""
    from tasks.train import MODEL, TRAINING, Training, params_digest

    if not release.params.zip_path:
        raise Misconfigured("source is zip, but zip_path is empty: give the path of a zip saved by Stable-Baselines3")
    zip_path = Path(release.params.zip_path).expanduser()
    _read_data(zip_path)
    statistics = find_vecnormalize(zip_path)
    content = hashlib.sha256(zip_path.read_bytes() + (statistics.read_bytes() if statistics else b"")).hexdigest()
    digest = params_digest(release.spec, f"zip:{content}")
    kept = release.get_json(TRAINING)
    if kept and kept["params_digest"] == digest and release.has(MODEL):
        return {"timesteps": kept["timesteps"], "seconds": kept["seconds"], "kept": True}
    started = time.monotonic()
    with release.scratch() as scratch:
        model = scratch / "model"
        model.mkdir()
        found = resave_apart(zip_path, model, release.spec.train.algorithm, statistics)
        log.info("imported %s: %s", zip_path.name, found)
        release.put_directory(model, "model")
    training = Training(
        algorithm=found["algorithm"],
        timesteps=found["timesteps"],
        seconds=round(time.monotonic() - started, 3),
        seed=found["seed"],
        source="zip",
        curve=[],
        params_digest=digest,
    )
    release.put_json(TRAINING, asdict(training))
    release.tag(stage="trained")
    return {"timesteps": training.timesteps, "seconds": training.seconds, "kept": False}


def _main() -> int:
    parser = argparse.ArgumentParser(description="Open one SB3 zip and save it again; the last line is JSON.")
    parser.add_argument("zip", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--algorithm")
    parser.add_argument("--vecnormalize", type=Path)
    arguments = parser.parse_args()
    try:
        document = resave(arguments.zip, arguments.vecnormalize, arguments.algorithm, arguments.into)
    except Misconfigured as error:
        sys.stdout.write("\n" + json.dumps({"error": str(error)}) + "\n")
        return _REFUSED
    sys.stdout.write("\n" + json.dumps(document) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
