"""nkeys and their JWTs: as nats-server writes them, whole, and signed by who they say."""

from __future__ import annotations

import base64
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast.nats_jwt import AccountKey, BadJwt, claims_of, new_seed

# Of github.com/nats-io/nkeys, README: a user's seed; its account's are the same but for the prefix.
SEED = "SAAJ62AUW2NPC3FZBTXLV74FES3CNK4UG2FU3V4SUYXPDTQCBJQTWN7Y6A"
USER_SEED = "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY"


def test_a_seed_is_an_account_s_and_gives_one_public_key() -> None:
    seed = new_seed()
    assert seed.startswith("SA")
    assert len(seed) == 58
    public = AccountKey(seed).public
    assert public == AccountKey(seed).public
    assert public.startswith("A")
    assert len(public) == 56
    assert new_seed() != seed


@pytest.mark.parametrize("seed", ["", "SA", USER_SEED, "x" * 58, AccountKey(SEED).public])
def test_what_is_no_account_s_seed_is_refused(seed: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        AccountKey(seed)


@given(st.integers(0, 57), st.sampled_from(string.ascii_uppercase + "234567"))
def test_a_seed_with_one_character_changed_is_refused(where: int, by: str) -> None:
    changed = SEED[:where] + by + SEED[where + 1 :]
    if changed != SEED and where < 56:  # the last characters hold spare bits
        with pytest.raises(ValueError, match=r"."):
            AccountKey(changed)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(0, 10**9), max_size=4))
def test_claims_come_back_as_they_were_signed(claims: dict[str, object]) -> None:
    key = AccountKey(new_seed())
    found = claims_of(key.sign(claims).encode())
    assert {name: found[name] for name in claims if name not in ("iss", "jti")} == {
        name: value for name, value in claims.items() if name not in ("iss", "jti")
    }
    assert found["iss"] == key.public


@given(st.binary(max_size=200))
def test_other_bytes_are_no_jwt(data: bytes) -> None:
    with pytest.raises(BadJwt):
        claims_of(data)


def test_a_jwt_that_was_changed_is_refused() -> None:
    header, body, signature = AccountKey(new_seed()).sign({"sub": "x"}).split(".")
    other = AccountKey(new_seed()).sign({"sub": "y"}).split(".")
    assert json.loads(_decoded(header))["alg"] == "ed25519-nkey"
    for changed in ((header, other[1], signature), (header, body, other[2]), (other[1], body, signature)):
        with pytest.raises(BadJwt):
            claims_of(".".join(changed).encode())


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
