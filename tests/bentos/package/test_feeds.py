"""What callers may give a policy in process, and what they are told when it is none of its observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bentos.package.digests import read_manifest
from bentos.package.feeds import Feeds
from bentos.package.loader import load
from bentos.package.manifest import Manifest, Space, Tensor
from tests.bentos.policy_packages import DISCRETE, write_package

VECTOR = Space("Box", shape=(3,), low=(None,) * 3, high=(None,) * 3)
IMAGE = Space("Box", "uint8", (6, 8, 3), (0.0,) * 144, (255.0,) * 144)
KINDS = Space("Discrete", "int64", n=4)
PAIR = Space("MultiDiscrete", "int64", (2,), nvec=(3, 2))
DICT = Space("Dict", spaces={"vector": VECTOR, "kind": KINDS})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    directory = tmp_path_factory.mktemp("package") / "package"
    write_package(directory)
    return read_manifest(directory)


def feeds(manifest: Manifest, space: Space, actions: Space = DISCRETE, *extra: Tensor) -> Feeds:
    parts = {f"observation.{key}": part for key, part in (space.spaces or {}).items()} or {"observation": space}
    inputs = tuple(Tensor(name, part.dtype, part.shape) for name, part in parts.items())
    return Feeds(
        msgspec.structs.replace(manifest, observation_space=space, action_space=actions, inputs=(*inputs, *extra))
    )


@pytest.mark.parametrize(
    ("space", "given", "shape", "batched"),
    [
        (VECTOR, np.zeros(3, np.float32), (1, 3), False),
        (VECTOR, np.zeros((5, 3), np.float32), (5, 3), True),
        (VECTOR, np.zeros((5, 3)), (5, 3), True),
        (VECTOR, [0, 1, 2], (1, 3), False),
        (VECTOR, np.zeros((6, 3), np.float32)[::2], (3, 3), True),
        (KINDS, 3, (1,), False),
        (KINDS, np.int32(3), (1,), False),
        (KINDS, [3, 0], (2,), True),
        (PAIR, [2.0, 1.0], (1, 2), False),
        (IMAGE, np.zeros((6, 8, 3), np.uint8), (1, 6, 8, 3), False),
    ],
)
def test_one_observation_or_a_batch_of_any_kind(
    manifest: Manifest, space: Space, given: Any, shape: tuple[int, ...], batched: bool
) -> None:
    found, many = feeds(manifest, space).read(given)
    assert (found["observation"].shape, many) == (shape, batched)
    assert found["observation"].dtype == space.dtype
    np.testing.assert_array_equal(found["observation"].reshape(np.shape(given)), given)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_an_image_with_its_channels_at_the_other_end_is_turned(manifest: Manifest, batch: tuple[int, ...]) -> None:
    last = np.random.default_rng(0).integers(0, 256, (*batch, 6, 8, 3)).astype(np.uint8)
    first = np.moveaxis(last, -1, -3)
    found, _ = feeds(manifest, IMAGE).read(first)
    np.testing.assert_array_equal(found["observation"].reshape(last.shape), last)

    turned = msgspec.structs.replace(IMAGE, shape=(3, 6, 8))
    found, _ = feeds(manifest, turned).read(last)
    np.testing.assert_array_equal(found["observation"].reshape(first.shape), first)


@pytest.mark.parametrize(
    ("space", "given"),
    [
        (IMAGE, np.zeros((3, 6, 8), np.float32)),
        (IMAGE, np.zeros((8, 3, 6), np.uint8)),
        (msgspec.structs.replace(IMAGE, dtype="float32"), np.zeros((3, 6, 8), np.float32)),
        (msgspec.structs.replace(IMAGE, shape=(4, 6, 4)), np.zeros((4, 4, 6), np.uint8)),
    ],
)
def test_only_images_of_bytes_whose_channels_are_plain_to_see_are_turned(
    manifest: Manifest, space: Space, given: Any
) -> None:
    with pytest.raises(ValueError, match="expected shape"):
        feeds(manifest, space).read(given)


@pytest.mark.parametrize(
    ("space", "given", "words"),
    [
        (VECTOR, np.zeros(4), r"observation: expected shape \(3,\) or \(n, 3\), came \(4,\)"),
        (VECTOR, np.zeros((2, 2, 3)), r"came \(2, 2, 3\)"),
        (VECTOR, np.zeros((0, 3), np.float32), r"came \(0, 3\)"),
        (VECTOR, [[0, 1, 2], [0, 1]], "came a ragged list"),
        (VECTOR, ["a", "b", "c"], "expected float32 numbers, came list"),
        (VECTOR, None, "expected float32 numbers, came NoneType"),
        (VECTOR, {"x": 1}, "expected float32 numbers, came dict"),
        (KINDS, 1.5, "expected whole numbers"),
        (KINDS, float("nan"), "expected whole numbers"),
        (KINDS, [[1]], r"expected shape \(\) or \(n,\)"),
        (IMAGE, np.full((6, 8, 3), 256), "came some from 256 to 256"),
        (DICT, {"vector": np.zeros(3)}, r"keys \['vector', 'kind'\], came \['vector'\]"),
        (DICT, {"vector": np.zeros(3), "kind": 1, "more": 2}, "came .*'more'"),
        (DICT, np.zeros(3), "came ndarray"),
        (DICT, {"vector": np.zeros((2, 3)), "kind": 1}, "not equally many"),
        (DICT, {"vector": np.zeros((2, 3)), "kind": [1, 2, 3]}, "not equally many"),
    ],
)
def test_what_is_no_observation_is_a_value_error_that_says_why(
    manifest: Manifest, space: Space, given: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        feeds(manifest, space).read(given)


def test_a_mask_is_all_allowed_unless_one_is_given(manifest: Manifest) -> None:
    asked = feeds(manifest, VECTOR, PAIR, Tensor("action_mask", "bool", (5,)))
    assert asked.read(np.zeros((2, 3)))[0]["action_mask"].tolist() == [[True] * 5] * 2
    mask = [1, 0, 0, 0, 1]
    assert asked.read(np.zeros(3), mask)[0]["action_mask"].tolist() == [[True, False, False, False, True]]
    assert asked.read(np.zeros((2, 3)), [mask, mask])[0]["action_mask"].shape == (2, 5)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([True] * 4, "a list of 5 booleans"),
        ([[True] * 5] * 2, "a list of 5 booleans"),
        (["yes"] * 5, "a list of 5 booleans"),
        ([[True] * 3, [True] * 2], "a list of 5 booleans|ragged"),
        ([True, True, True, False, False], "in every dimension"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(manifest: Manifest, mask: Any, words: str) -> None:
    asked = feeds(manifest, VECTOR, PAIR, Tensor("action_mask", "bool", (5,)))
    with pytest.raises(ValueError, match=words):
        asked.read(np.zeros(3), mask)


def test_a_mask_for_a_policy_that_takes_none_is_refused(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="takes no action_mask"):
        feeds(manifest, VECTOR).read(np.zeros(3), [True, True])


@pytest.mark.parametrize(
    ("state", "starts", "words"),
    [
        ((np.zeros((2, 1, 4)),), None, "expected 2 arrays, came 1"),
        ((np.zeros((1, 2, 4)), np.zeros((2, 1, 4))), None, r"expected shape \(2, 1, 4\), came \(1, 2, 4\)"),
        (None, [True, False], "expected 1 of them, came 2"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(manifest: Manifest, state: Any, starts: Any, words: str) -> None:
    extra = [Tensor(name, "float32", (2, 4)) for name in ("state_h", "state_c")]
    asked = feeds(manifest, VECTOR, DISCRETE, *extra, Tensor("episode_start", "float32", ()))
    found, _ = asked.read(np.zeros(3))
    with pytest.raises(ValueError, match=words):
        asked.recall(found, 1, state, starts)


def test_a_number_that_is_not_finite_is_named(tmp_path: Path) -> None:
    write_package(tmp_path / "package")
    policy = load(tmp_path / "package")
    for wrong in (np.nan, np.inf, 1e300):
        given = np.zeros((3, 4))
        given[1, 2] = wrong
        with pytest.raises(ValueError, match=r"observation: expected finite numbers, came NaN or infinity \(row 1\)"):
            policy.predict(given)
        with pytest.raises(ValueError, match="expected finite numbers"):
            policy.predict(given[1])
    assert policy.predict(np.zeros((3, 4))).shape == (3,)


def test_a_policy_without_memory_steps_as_it_predicts(tmp_path: Path) -> None:
    write_package(tmp_path / "package")
    policy = load(tmp_path / "package")
    assert policy.step([0, 0, 0, 1], state=None, episode_start=[True]) == (1, None)
