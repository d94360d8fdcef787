"""A vehicle is who its token or its certificate says, and nobody else; whatever is shown, there is an answer and no crash."""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from fleetcast.auth import LEEWAY, Identity, KeyFile, Proof, Unproven, identity, read_keys
from fleetcast.errors import Unusable
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle

RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC, OTHER_EC = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
SECRET = "s3cret-" * 6


def public(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def private(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def der(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def jwk(key: Any, kid: str = "", **more: str) -> dict[str, Any]:
    made = (RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm).to_jwk(
        key.public_key(), as_dict=True
    )
    return {**made, **({"kid": kid} if kid else {}), **more}


def token(key: Any = EC, algorithm: str = "ES256", kid: str = "", **changes: Any) -> str:
    claims = {"sub": "car-1", "exp": int(time.time()) + 60} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


Made = Callable[..., Identity]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An Identity of a file with this content."""

    def make(content: bytes, name: str = "keys.pem", **settings: str) -> Identity:
        file = tmp_path / name
        file.write_bytes(content)
        given: dict[str, Any] = {f"vehicle_{name}": text for name, text in settings.items()}
        found = identity(Settings(vehicle_keys=str(file), **given))
        assert found is not None
        return found

    return make


def refused(who: Identity, shown: str, reason: str, status: int = 401) -> None:
    with pytest.raises(Unproven) as caught:
        who.by_token(shown)
    why = caught.value
    assert (why.reason, why.status) == (reason, status)
    assert why.headers["WWW-Authenticate"].startswith('Bearer realm="fleetcast", error="invalid_token"')
    if shown.count(".") == 2:
        assert shown not in str(why)
        assert shown.partition(".")[2][:20] not in str(why)


# Who is let in


@pytest.mark.parametrize(
    ("content", "name", "key", "algorithm"),
    [
        (public(RSA), "k.pem", RSA, "RS256"),
        (public(EC), "k.pem", EC, "ES256"),
        (public(RSA) + public(EC), "k.pem", EC, "ES256"),
        (public(OTHER_EC) + public(EC), "k.pem", EC, "ES256"),
        (SECRET.encode() + b"\n", "k.secret", SECRET, "HS256"),
        (json.dumps({"keys": [jwk(RSA)]}).encode(), "k.json", RSA, "RS256"),
    ],
    ids=range(6),
)
def test_a_token_of_one_of_the_keys_is_taken(
    made: Made, content: bytes, name: str, key: Any, algorithm: str
) -> None:
    until = int(time.time()) + 60
    assert made(content, name).by_token(token(key, algorithm, exp=until)) == Proof("car-1", until)


def test_a_jwks_is_searched_by_kid(made: Made) -> None:
    oct_key = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="), "kid": "s"}
    foreign = [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "o"}, jwk(OTHER_RSA, "e", use="enc")]
    keys = [jwk(RSA, "r"), jwk(EC, "e", use="sig", alg="ES256"), oct_key, *foreign]
    who = made(json.dumps({"keys": keys}).encode(), "k.json")
    for key, algorithm, kid in ((RSA, "RS256", "r"), (EC, "ES256", "e"), (SECRET, "HS256", "s")):
        assert who.by_token(token(key, algorithm, kid)).vehicle == "car-1"
        assert who.by_token(token(key, algorithm)).vehicle == "car-1"
    refused(who, token(EC, "ES256", "r"), "algorithm")
    refused(who, token(EC, "ES256", "elsewhere"), "key")
    refused(who, token(OTHER_EC, "ES256", "e"), "signature")


def test_clocks_may_differ_a_little(made: Made) -> None:
    who, now = made(public(EC)), int(time.time())
    assert who.by_token(token(exp=now - 1, nbf=now - 60)).vehicle == "car-1"
    assert who.by_token(token(nbf=now + 2, iat=now + 2)).vehicle == "car-1"


def test_a_token_that_was_good_ends_all_the_same(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    who, now = made(public(EC)), int(time.time())
    shown = token(exp=now + 30)
    for _ in range(2):
        assert who.by_token(shown) == Proof("car-1", now + 30)
    later = dt.datetime.fromtimestamp(now + 30 + LEEWAY + 1, dt.UTC)

    class Later(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return later

    monkeypatch.setattr("fleetcast.auth.time.time", later.timestamp)
    monkeypatch.setattr("jwt.api_jwt.datetime", Later)
    refused(who, shown, "expired")


def test_issuer_and_audience_count_if_they_are_set(made: Made) -> None:
    who = made(public(EC), issuer="us", audience="fleet")
    assert who.by_token(token(iss="us", aud=["fleet", "other"])).vehicle == "car-1"
    refused(who, token(iss="them", aud="fleet"), "issuer")
    refused(who, token(iss="us", aud="others"), "audience")
    refused(who, token(aud="fleet"), "claims")
    assert made(public(EC)).by_token(token(iss="anybody", aud="anything")).vehicle == "car-1"


# Who is not


def test_what_a_token_lacks_or_has_outlived_is_said(made: Made) -> None:
    who, now = made(public(EC)), int(time.time())
    refused(who, token(exp=now - LEEWAY - 2), "expired")
    refused(who, token(nbf=now + LEEWAY + 60), "early")
    refused(who, token(exp=None), "claims")
    refused(who, token(sub=None), "claims")
    refused(who, token(sub="car/1"), "claims")
    refused(who, token(sub="*"), "claims")
    refused(who, token(sub=""), "claims")
    refused(who, token(OTHER_EC), "signature")
    refused(who, token() + "x", "malformed")
    refused(who, "nonsense", "malformed")
    refused(who, "x" * 9000, "malformed")


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", "nOnE"])
def test_alg_none_is_refused(made: Made, name: str) -> None:
    claims = {"sub": "car-1", "exp": int(time.time()) + 60}
    for content, file in ((public(RSA), "k.pem"), (SECRET.encode(), "k.secret")):
        refused(made(content, file), unsigned({"alg": name, "typ": "JWT"}, claims), "algorithm")


@pytest.mark.parametrize("key", [RSA, EC], ids=["rsa", "ec"])
@pytest.mark.parametrize("form", [public, der, lambda key: public(key).strip()], ids=["pem", "der", "strip"])
def test_a_public_key_is_no_secret(made: Made, key: Any, form: Callable[[Any], bytes]) -> None:
    """Algorithm confusion: who knows the public key signs with it, by HS256."""
    header, claims = {"alg": "HS256", "typ": "JWT"}, {"sub": "car-1", "exp": int(time.time()) + 60}
    signed = unsigned(header, claims).rpartition(".")[0]
    forged = unsigned(header, claims, hmac.digest(form(key), signed.encode(), "sha256"))
    for content, name in (
        (public(key), "k.pem"),
        (json.dumps({"keys": [jwk(key, "k")]}).encode(), "k.json"),
    ):
        refused(made(content, name), forged, "algorithm")
    with pytest.raises(Unusable, match="no secret"):
        read_keys(form(key), secret=True)


def test_a_public_key_in_der_that_ends_like_a_line_is_no_secret() -> None:
    """One in 128 does."""
    keys = (der(ec.generate_private_key(ec.SECP256R1())) for _ in range(10_000))
    with pytest.raises(Unusable, match="no secret"):
        read_keys(next(key for key in keys if key[-1:] in b"\r\n"), secret=True)


def test_a_key_is_used_with_its_own_algorithm_only(made: Made) -> None:
    who = made(public(RSA))
    for algorithm in ("RS384", "RS512", "PS256"):
        refused(who, token(RSA, algorithm), "algorithm")
    refused(made(SECRET.encode(), "k.secret"), token(SECRET * 2, "HS512"), "algorithm")


BAD_KEYS = [
    (b"", False, "no key"),
    (b"hello", False, "no key"),
    (public(EC)[:100], False, "no key"),
    (private(EC), False, "private"),
    (public(RSA) + private(EC), False, "private"),
    (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", False, "cannot be read"),
    (public(ec.generate_private_key(ec.SECP384R1())), False, "neither RSA nor P-256"),
    (b"{", False, "JWKS"),
    (b'{"keys":[]}', False, "no key"),
    (b'{"keys":5}', False, "JWKS"),
    (b'{"keys":[{}]}', False, "JWKS"),
    (b'{"keys":[5]}', False, "JWKS"),
    (b'{"keys":[{"kty":"RSA","n":"!","e":"AQAB"}]}', False, "JWKS"),
    (b'{"keys":[{"kty":"oct","k":"c2hvcnQ","kid":"1"}]}', False, "32 or more"),
    (json.dumps({"keys": [jwk(EC, "a"), jwk(RSA)]}).encode(), False, "without kid"),
    (json.dumps({"keys": [jwk(EC, "a"), jwk(RSA, "a")]}).encode(), False, "one kid"),
    (
        json.dumps({"keys": [ECAlgorithm.to_jwk(EC, as_dict=True) | {"kid": "a"}]}).encode(),
        False,
        "private",
    ),
    (b"short", True, "32 or more"),
    (b"x" * 31 + b"\n", True, "32 or more"),
]


@pytest.mark.parametrize(("content", "secret", "text"), BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_a_bad_key_file_is_said_in_one_line(content: bytes, secret: bool, text: str) -> None:
    with pytest.raises(Unusable, match=text) as caught:
        read_keys(content, secret=secret)
    assert "\n" not in str(caught.value)


def test_a_short_rsa_key_is_refused() -> None:
    with pytest.raises(Unusable, match="2048"):
        read_keys(public(rsa.generate_private_key(65537, 1024)), secret=False)


def test_a_certificate_s_public_key_counts_too() -> None:
    (key,) = read_keys(certificate("issuer").encode(), secret=False)
    assert key.algorithm == "ES256"


# The file changes while it is in use


def write(file: Path, content: bytes) -> None:
    """At another time than before, whatever the file system's clock."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_bytes(content)
    os.utime(file, ns=(before + 1_000_000, before + 1_000_000))


def test_keys_are_read_again_and_a_bad_file_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.pem"
    write(file, public(EC))
    who = Identity(KeyFile(file))
    new = token(OTHER_EC)
    refused(who, new, "signature")
    write(file, public(OTHER_EC))
    assert who.by_token(new).vehicle == "car-1"
    refused(who, token(EC), "signature")
    for bad in (b"", b"garbage", private(EC)):
        write(file, bad)
        for _ in range(2):
            assert who.by_token(new).vehicle == "car-1"
        assert capsys.readouterr().out.count("became unusable") == 1
    file.unlink()
    assert who.by_token(new).vehicle == "car-1"
    write(file, public(EC))
    assert who.by_token(token(EC)).vehicle == "car-1"


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"vehicle_keys: .*No such file"):
        identity(Settings(vehicle_keys=str(tmp_path / "none.pem")))
    assert identity(Settings()) is None


def test_without_keys_no_token_counts() -> None:
    who = identity(Settings(vehicle_ca="ca.pem"))
    assert who is not None
    assert not who.takes_tokens
    refused(who, token(), "unexpected")


# Certificates


def certificate(*common: str, days: float = 1) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one) for one in common])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(EC.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=30))
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(EC, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def test_a_certificate_is_its_common_name_until_it_ends() -> None:
    who = Identity(None)
    proof = who.by_certificate(certificate("car-7"))
    assert proof.vehicle == "car-7"
    assert abs(proof.until - time.time() - 24 * 3600) < 60
    with pytest.raises(Unproven) as caught:
        who.by_certificate(certificate("car-7"), now=time.time() + 2 * 24 * 3600)
    assert caught.value.reason == "expired"


@pytest.mark.parametrize("names", [(), ("a b",), ("*",), ("car-1", "car-2"), ("x.y",)])
def test_a_certificate_without_one_vehicle_id_is_nobody(names: tuple[str, ...]) -> None:
    with pytest.raises(Unproven) as caught:
        Identity(None).by_certificate(certificate(*names))
    assert caught.value.reason == "certificate"


# Whatever is shown


def fixed(content: bytes, *, secret: bool = False) -> Identity:
    """With keys that no file holds."""

    class Fixed(KeyFile):
        def __init__(self) -> None:
            self._keys = read_keys(content, secret=secret)

        def current(self) -> Any:
            return self._keys

    return Identity(Fixed())


WHO = [fixed(public(RSA)), fixed(public(EC)), fixed(SECRET.encode(), secret=True)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "x5c"]), JSON, max_size=4
)


@given(st.text(max_size=300))
def test_any_text_is_answered(text: str) -> None:
    for who in WHO:
        with pytest.raises(Unproven):
            who.by_token(text)


@given(HEADERS, st.sampled_from(["RS256", "ES256", "HS256", "none"]), JSON, st.binary(max_size=80))
def test_a_token_that_is_not_signed_is_never_taken(
    header: dict[str, Any], algorithm: str, claims: Any, signature: bytes
) -> None:
    forged = unsigned({"alg": algorithm} | header, claims, signature)
    for who in WHO:
        with pytest.raises(Unproven):
            who.by_token(forged)


@given(
    st.fixed_dictionaries(
        {"sub": JSON | st.just("car-1"), "exp": JSON | st.just(int(time.time()) + 10_000)},
        optional={"nbf": JSON, "iat": JSON, "aud": JSON, "iss": JSON, "jti": JSON},
    )
)
def test_a_signed_token_names_a_vehicle_or_is_refused(claims: dict[str, Any]) -> None:
    body = json.dumps(claims).encode()
    shown = jwt.api_jws.encode(body, EC, algorithm="ES256")
    try:
        proof = WHO[1].by_token(shown)
    except Unproven:
        return
    assert is_vehicle(proof.vehicle)
    assert proof.vehicle == claims["sub"]
    assert proof.until > time.time() - LEEWAY - 5


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"{" + tail))
def test_any_key_file_is_keys_or_unusable(content: bytes) -> None:
    for secret in (False, True):
        with suppress(Unusable):
            assert read_keys(content, secret=secret)
