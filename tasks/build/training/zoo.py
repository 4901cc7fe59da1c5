"""The layout of the rl-zoo: what lies beside a zip says which environment it acts in and how that was prepared."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.build.training.algorithms import CLASSES
from tasks.errors import Misconfigured

_ID = re.compile(r"[\w./:-]+-v\d+")
_RUN = re.compile(r"(?P<id>.+)_\d+")
_CHECKPOINT = re.compile(r"(?P<prefix>.+)_(?P<steps>\d+)_steps")
_PYTHON = "tag:yaml.org,2002:python/"


@dataclass(frozen=True)
class Layout:
    """What was found beside a zip. `environment` is a Gymnasium id; `notes` are for the person who exports.

    `prepared` names what stood between environment and model in training (frames stacked, wrappers); `normalized`
    whether observations were normalized, where that is known; `packages` are those that register the environment.
    """

    environment: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    statistics: Path | None = None
    prepared: tuple[str, ...] = ()
    normalized: bool | None = None
    packages: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def require_statistics(self, zip_path: Path) -> None:
        """Raise Misconfigured where the model saw normalized observations and the statistics are not there."""
        if self.normalized and self.statistics is None:
            raise Misconfigured(
                f"{zip_path}: was trained on normalized observations (its config.yml says so), but there is no "
                "vecnormalize.pkl beside it; give it with --vecnormalize"
            )


def find_layout(zip_path: Path) -> Layout:
    """Look around a zip: `ALGO/ENV_1/ENV.zip` (or best_model.zip, rl_model_N_steps.zip) with `ENV_1/ENV/`'s files."""
    folder = _folder(zip_path)
    arguments: dict[str, Any] = {}
    config: dict[str, Any] = {}
    notes = []
    if folder is not None:
        for name, into in (("args.yml", arguments), ("config.yml", config)):
            try:
                into.update(read_yaml(folder / name))
            except Misconfigured as error:
                notes.append(f"{error}; ignored")
    statistics = find_vecnormalize(zip_path)
    if statistics is not None and _is_checkpoint(zip_path) and _steps(zip_path) not in statistics.stem:
        notes.append(f"{statistics.name} holds the statistics of the training's end, not of this checkpoint")
    found = arguments.get("env") or arguments.get("env_id")
    return Layout(
        environment=str(found) if found else environment_in_path(zip_path),
        kwargs=literal(config.get("env_kwargs")) | literal(arguments.get("env_kwargs")),
        statistics=statistics,
        prepared=_prepared(config),
        normalized=_normalized(config),
        packages=tuple(map(str, arguments.get("gym_packages") or ())),
        notes=tuple(notes),
    )


def find_vecnormalize(zip_path: Path) -> Path | None:
    """The VecNormalize statistics that belong to a zip: a checkpoint's own, else those of its run."""
    candidates = []
    if checkpoint := _CHECKPOINT.fullmatch(zip_path.stem):
        candidates.append(zip_path.with_name(f"{checkpoint['prefix']}_vecnormalize_{checkpoint['steps']}_steps.pkl"))
    if (folder := _folder(zip_path)) is not None:
        candidates.append(folder / "vecnormalize.pkl")
    candidates += [zip_path.parent / name for name in ("vecnormalize.pkl", "vec_normalize.pkl")]
    return next((path for path in candidates if path.is_file()), None)


def environment_in_path(zip_path: Path) -> str | None:
    """The environment's id in the name of a run's directory (`ENV_1`) or of the zip (`ENV.zip`, `ppo-ENV.zip`)."""
    for name in (*_runs(zip_path), zip_path.stem):
        bare = name
        for algorithm in sorted(CLASSES, key=len, reverse=True):
            bare = bare.removeprefix(f"{algorithm}-").removeprefix(f"{algorithm}_")
        if _ID.fullmatch(bare):
            return bare
    return None


def _runs(zip_path: Path) -> list[str]:
    match = _RUN.fullmatch(zip_path.absolute().parent.name)
    return [match["id"]] if match else []


def _folder(zip_path: Path) -> Path | None:
    """The folder of a run's files: `ENV/` beside the zip."""
    names = [zip_path.stem, *_runs(zip_path)]
    return next((folder for name in names if (folder := zip_path.parent / name).is_dir()), None)


def _is_checkpoint(zip_path: Path) -> bool:
    return zip_path.stem == "best_model" or _CHECKPOINT.fullmatch(zip_path.stem) is not None


def _steps(zip_path: Path) -> str:
    match = _CHECKPOINT.fullmatch(zip_path.stem)
    return f"_{match['steps']}_steps" if match else zip_path.stem


def _prepared(config: dict[str, Any]) -> tuple[str, ...]:
    found = []
    stack = config.get("frame_stack")
    if isinstance(stack, int) and stack > 1:
        found.append(f"{stack} frames stacked")
    for name in ("env_wrapper", "vec_env_wrapper"):
        wrappers = config.get(name)
        for wrapper in wrappers if isinstance(wrappers, list) else [wrappers] if wrappers else []:
            found.append(f"wrapped in {next(iter(wrapper)) if isinstance(wrapper, dict) and wrapper else wrapper}")
    return tuple(found)


def _normalized(config: dict[str, Any]) -> bool | None:
    given = config.get("normalize")
    if given is None or isinstance(given, bool):
        return given
    return bool(literal(given).get("norm_obs", True))


def literal(value: Any) -> dict[str, Any]:
    """A dict that rl-zoo wrote as a dict, or as Python text (`dict(a=1)`, `{'a': 1}`); only literals are read."""
    if isinstance(value, dict):
        return {str(key): entry for key, entry in value.items()}
    if not isinstance(value, str):
        return {}
    try:
        tree = ast.parse(value, mode="eval").body
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "dict" and not tree.args:
            return {word.arg: ast.literal_eval(word.value) for word in tree.keywords if word.arg}
        found = ast.literal_eval(tree)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    return {str(key): entry for key, entry in found.items()} if isinstance(found, dict) else {}


class _Tolerant(yaml.SafeLoader):
    """YAML that rl-zoo dumped with Python's own tags: mappings and sequences are read, objects are never built."""


def _plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        items = loader.construct_sequence(node, deep=True)
        if "OrderedDict" in suffix and len(items) == 1 and isinstance(items[0], list):
            return {str(pair[0]): pair[1] for pair in items[0] if isinstance(pair, list) and len(pair) == 2}
        return items
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return suffix.partition(":")[2] or str(node.value)


_Tolerant.add_multi_constructor(_PYTHON, _plain)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file of the rl-zoo; empty where there is no file. Raises Misconfigured when it is no YAML."""
    if not path.is_file():
        return {}
    try:
        document = yaml.load(path.read_text(), _Tolerant)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Misconfigured(f"{path}: cannot be read as YAML: {reason}") from error
    return {str(key): value for key, value in document.items()} if isinstance(document, dict) else {}
