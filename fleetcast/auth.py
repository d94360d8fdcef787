"""Which vehicle this is: by a token (JWT) or by the subject of a client certificate. The same for HTTP and for MQTT.

In: a token, or a certificate that TLS has verified. Out: the vehicle and until when that holds, or `Unproven` with the reason.
`Tokens` is the part that apps' tokens are checked by as well (`access`).
A signature's algorithm follows from the key alone, never from the token, so a public key is never taken for a secret. Nothing
here logs or repeats any part of a token.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jwt
import msgspec
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from fleetcast.errors import Refuse, Unusable
from fleetcast.settings import Settings
from fleetcast.subjects import is_vehicle

log = structlog.get_logger()

LEEWAY = 5
"""Seconds by which a token may be early or late: clocks differ."""
_LONGEST = 8_192
_SECRET = 32
_MOST_SEEN = 100_000  # tokens that were good, so that a signature is not verified anew for each packet
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)

# What is said of a token that is not taken. Texts of our own: the library's repeat parts of the token.
_WHY: dict[type[jwt.PyJWTError], tuple[str, str]] = {
    jwt.ExpiredSignatureError: ("expired", "the token has expired"),
    jwt.ImmatureSignatureError: ("early", "the token is not valid yet"),
    jwt.InvalidIssuerError: ("issuer", "the token is of another issuer"),
    jwt.InvalidAudienceError: ("audience", "the token is for another audience"),
    jwt.MissingRequiredClaimError: ("claims", "the token lacks a claim: sub and exp must be there"),
    jwt.InvalidSignatureError: ("signature", "the token is signed by none of the keys"),
}


class Proof(NamedTuple):
    """`vehicle` is who it is, until `until` (seconds since 1970)."""

    vehicle: str
    until: float


class Unproven(Refuse):
    """Not who it says, or not said at all: 401, or 403 for another vehicle. `reason` is one word, for the metric."""

    def __init__(self, reason: str, detail: str, status: int = 401) -> None:
        code = {401: "invalid_token", 403: "insufficient_scope"}[status]
        challenge = 'Bearer realm="fleetcast"'
        if reason != "missing":  # RFC 6750, 3.1: no error code where no credentials were shown
            challenge += f', error="{code}", error_description="{detail}"'
        title = "Not this vehicle" if status == 403 else "Not identified"
        super().__init__(status, title, detail, headers={"WWW-Authenticate": challenge})
        self.reason = reason


class Key(NamedTuple):
    """`algorithm` is the only one that it is used with. `kid`: empty if it has no name."""

    algorithm: str
    key: Any
    kid: str


class Ends(Protocol):
    """What a token proves, until some time."""

    @property
    def until(self) -> float:
        """Seconds since 1970."""


P = TypeVar("P", bound=Ends)


class Tokens(Generic[P]):
    """What tokens prove that are signed by one of the keys and hold now: `read` makes it of their claims, or raises Unproven.

    `sub` and `exp` are always among the claims.
    """

    def __init__(
        self,
        keys: KeyFile,
        read: Callable[[dict[str, Any]], P],
        issuer: str = "",
        audience: str = "",
        most: int = _MOST_SEEN,
    ) -> None:
        self._keys = keys
        self._read = read
        self._issuer, self._audience = issuer, audience
        self._most = most
        self._seen: dict[str, P] = {}
        self._seen_by: tuple[Key, ...] = ()

    def proof(self, token: str) -> P:
        """Raises Unproven."""
        if len(token) > _LONGEST:
            raise Unproven("malformed", f"the token is longer than {_LONGEST} characters")
        keys = self._keys.current()
        if keys is not self._seen_by:
            self._seen, self._seen_by = {}, keys
        known = self._seen.get(token)
        if known is None or known.until + LEEWAY <= time.time():
            known = self._verified(token, keys)
            if len(self._seen) >= self._most:
                self._seen.clear()
            self._seen[token] = known
        return known

    def _verified(self, token: str, keys: tuple[Key, ...]) -> P:
        failed: Unproven | None = None
        for key in _candidates(keys, token):
            try:
                return self._read(self._claims(token, key))
            except Unproven as why:
                if why.reason != "signature":
                    raise
                failed = why
        assert failed is not None
        raise failed

    def _claims(self, token: str, key: Key) -> dict[str, Any]:
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                leeway=LEEWAY,
                issuer=self._issuer or None,
                audience=self._audience or None,
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": bool(self._audience),
                    "verify_iss": bool(self._issuer),
                },
            )
            claims["exp"] = float(claims["exp"])
        except jwt.PyJWTError as error:
            raise Unproven(
                *_WHY.get(type(error), ("malformed", "the token is no JWT of these claims"))
            ) from None
        except (ValueError, TypeError, OverflowError, RecursionError, AttributeError):
            raise Unproven("malformed", "the token is no JWT of these claims") from None
        return claims


def _vehicle_of(claims: dict[str, Any]) -> Proof:
    if not is_vehicle(claims["sub"]):
        raise Unproven("claims", "the token's sub is no vehicle id")
    return Proof(claims["sub"], claims["exp"])


class Identity:
    """What is known of credentials: the keys of tokens, and whether certificates count."""

    def __init__(self, keys: KeyFile | None, issuer: str = "", audience: str = "") -> None:
        self._tokens = None if keys is None else Tokens(keys, _vehicle_of, issuer, audience)

    @property
    def takes_tokens(self) -> bool:
        """Whether a token can prove anything."""
        return self._tokens is not None

    def by_token(self, token: str) -> Proof:
        """Raises Unproven."""
        if self._tokens is None:
            raise Unproven("unexpected", "tokens are not taken here")
        return self._tokens.proof(token)

    def by_certificate(self, pem: str, now: float | None = None) -> Proof:
        """Of a certificate that TLS has verified against `vehicle_ca`. Raises Unproven."""
        vehicle, until = _subject(pem)
        if vehicle is None:
            raise Unproven("certificate", "the certificate's subject has no CN that is a vehicle id")
        if until < (time.time() if now is None else now):  # the connection may be older than that
            raise Unproven("expired", "the certificate has expired")
        return Proof(vehicle, until)


def identity(settings: Settings) -> Identity | None:
    """None in open development. Raises Unusable if the keys cannot be read."""
    if not settings.identity:
        return None
    keys = KeyFile(Path(settings.vehicle_keys)) if settings.vehicle_keys else None
    return Identity(keys, settings.vehicle_issuer, settings.vehicle_audience)


def _candidates(keys: tuple[Key, ...], token: str) -> list[Key]:
    """The keys that this token may be signed by: its `kid` names one, or all that have its algorithm. Raises Unproven."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, AttributeError):
        raise Unproven("malformed", "the token is no JWT") from None
    kid = header.get("kid")
    named = [key for key in keys if key.kid == kid] if kid else []
    if kid and not named and all(key.kid for key in keys):
        raise Unproven("key", "the token is of a key that is not known here")
    found = [key for key in named or keys if key.algorithm == header.get("alg")]
    if not found:
        raise Unproven("algorithm", "the token is signed by an algorithm that is none of its key's")
    return found


@lru_cache(maxsize=10_000)  # a connection asks for each packet
def _subject(pem: str) -> tuple[str | None, float]:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    vehicle = names[0] if len(names) == 1 and is_vehicle(names[0]) else None
    return vehicle, certificate.not_valid_after_utc.timestamp()


# Key files


class KeyFile:
    """The keys in a file, read again when it changes. A file that became unusable leaves the keys as they were.

    `setting` is the one that names it.
    """

    def __init__(self, path: Path, setting: str = "vehicle_keys") -> None:
        """Raises Unusable if there is none, or no key in it."""
        self._path, self._setting = path, setting
        self._seen = self._stamp()
        self._keys = self._load()

    def current(self) -> tuple[Key, ...]:
        """As the file is now, or as it was when it was last good."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._keys = self._load()
            except Unusable as why:
                log.error("keys became unusable; those before stay", setting=self._setting, error=str(why))
            else:
                log.info(
                    "keys were read again", setting=self._setting, path=str(self._path), keys=len(self._keys)
                )
        return self._keys

    def _stamp(self) -> tuple[int, ...]:
        try:
            now = self._path.stat()
        except OSError:
            return ()
        return now.st_mtime_ns, now.st_size, now.st_ino

    def _load(self) -> tuple[Key, ...]:
        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise Unusable(f"{self._setting}: {self._path}: {error.strerror}") from None
        try:
            return read_keys(data, secret=self._path.suffix == ".secret")
        except Unusable as why:
            raise Unusable(f"{self._setting}: {self._path}: {why}") from None


def read_keys(data: bytes, *, secret: bool) -> tuple[Key, ...]:
    """The keys of a file's content; whether it is a secret is said by its name, never guessed. Raises Unusable."""
    if secret:
        # What a key in DER ends in may look like a line's end, and be none to cut off: then it would be no key any more.
        return (_secret(data if _is_public(data) else data.rstrip(b"\r\n")),)
    keys = _jwks(data) if data.lstrip().startswith(b"{") else _pem(data)
    if not keys:
        raise Unusable("no key that can be used: RSA of 2048 bits or more, P-256, or in a JWKS oct")
    return tuple(keys)


def _secret(text: bytes, kid: str = "") -> Key:
    if len(text) < _SECRET:
        raise Unusable(f"a secret of {len(text)} bytes; {_SECRET} or more are needed")
    if b"-----BEGIN" in text or text.startswith((b"ssh-", b"ecdsa-", b"{")) or _is_public(text):
        raise Unusable("a key, and no secret: who knows the public key could sign with it")
    return Key("HS256", text, kid)


def _is_public(data: bytes) -> bool:
    try:
        load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _pem(data: bytes) -> list[Key]:
    keys = []
    for block in _PEM.finditer(data):
        if b"PRIVATE" in block[1]:
            raise Unusable("a private key, which has no place here: only its public half")
        try:
            if block[1] == b"CERTIFICATE":
                keys.append(_public(x509.load_pem_x509_certificate(block[0]).public_key()))
            else:
                keys.append(_public(load_pem_public_key(block[0])))
        except (ValueError, UnsupportedAlgorithm):
            raise Unusable(f"a {block[1].decode()} that cannot be read") from None
    return keys


def _public(key: object, kid: str = "") -> Key:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise Unusable(f"an RSA key of {key.key_size} bits; 2048 or more are needed")
        return Key("RS256", key, kid)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return Key("ES256", key, kid)
    raise Unusable("a public key that is neither RSA nor P-256")


def _jwks(data: bytes) -> list[Key]:
    """Keys for other uses, or of other kinds, are passed over (RFC 7517, 5)."""
    try:
        entries = msgspec.json.decode(data)["keys"]
        found = [_jwk(entry) for entry in entries]
    except (msgspec.MsgspecError, jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        raise Unusable("no JWKS, or a key in it that cannot be read") from None
    keys = [key for key in found if key is not None]
    if any(not key.kid for key in keys) and len(keys) > 1:
        raise Unusable("several keys in a JWKS, and one without kid")
    if len({key.kid for key in keys}) < len(keys):
        raise Unusable("two keys in the JWKS have one kid")
    return keys


def _jwk(entry: dict[str, Any]) -> Key | None:
    kid = entry.get("kid", "")
    if not isinstance(kid, str) or entry.get("use", "sig") != "sig":
        return None
    match entry["kty"], entry.get("alg"):
        case "RSA", None | "RS256":
            key: object = RSAAlgorithm.from_jwk(entry)
        case "EC", None | "ES256" if entry.get("crv") == "P-256":
            key = ECAlgorithm.from_jwk(entry)
        case "oct", None | "HS256":
            return _secret(jwt.utils.base64url_decode(entry["k"]), kid)
        case _:
            return None
    if "d" in entry:
        raise Unusable("a private key, which has no place here: only its public half")
    return _public(key, kid)
