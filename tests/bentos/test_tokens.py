"""Signed ids carry an episode to any replica, and nothing else passes for one."""

from __future__ import annotations

import pytest

from bentos.tokens import Episode, Forged, Memory, Signer, State, new_nonce, user_hash

EPISODE = Episode("cartpole", "3", "challenger", "g1", new_nonce(), user_hash("ada"), 1_700_000_000.0)


def test_another_replica_with_the_same_key_reads_the_id() -> None:
    assert Signer("key").episode(Signer("key").episode_id(EPISODE)) == EPISODE


def test_an_id_never_shows_the_user() -> None:
    assert "ada" not in str(EPISODE)


@pytest.mark.parametrize("place", [5, 40, -3])
def test_an_id_with_one_character_changed_is_refused(place: int) -> None:
    signer = Signer("key")
    text = signer.episode_id(EPISODE)
    letter = "A" if text[place] != "A" else "B"
    changed = text[:place] + letter + text[place:][1:]
    with pytest.raises(Forged):
        signer.episode(changed)


@pytest.mark.parametrize("text", ["", "e1", "e1..", "e1.a.b", "forged", "e1.é.é", "s1.AAAA.AAAA"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(Forged):
        Signer("key").episode(text)


def test_an_id_of_another_key_is_refused() -> None:
    with pytest.raises(Forged):
        Signer("key").episode(Signer("other").episode_id(EPISODE))


def test_a_state_token_is_no_episode_id_and_serves_one_episode_only() -> None:
    signer = Signer("key")
    token = signer.state_token(State("cartpole", "n1", 3, [0.5], Memory("1", {"state_h": b"\x00\x01"})))
    assert signer.state(token, "cartpole", "n1").action == [0.5]
    with pytest.raises(Forged):
        signer.state(token, "cartpole", "n2")
    with pytest.raises(Forged):
        signer.episode(token)
