"""nats-server's keys and the JWTs that it exchanges with an auth callout: nkeys (Ed25519) and `ed25519-nkey` signatures.

An nkey is base32 of a prefix byte, the 32 bytes of a key and a CRC-16 of both: `SA…` is the seed of an account, `A…` its public
key, `U…` a user's, `N…` a server's. The format's source is github.com/nats-io/nkeys and jwt (v2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_SEED, _ACCOUNT = 18 << 3, 0  # prefix bytes: the letters S and A
_HEADER = b'{"typ":"JWT","alg":"ed25519-nkey"}'


class BadJwt(ValueError):
    """Not a JWT of this kind, or its signature is not its issuer's."""


def new_seed() -> str:
    """The seed of a new account key."""
    return _encode(bytes([_SEED | _ACCOUNT >> 5, (_ACCOUNT & 31) << 3]) + secrets.token_bytes(32))


class AccountKey:
    """The key by which an account's users are signed. `public` is what nats-server is told."""

    def __init__(self, seed: str) -> None:
        """Raises ValueError if that is no account's seed."""
        raw = _decode(seed)
        if len(raw) != 34 or raw[0] & 0xF8 != _SEED or ((raw[0] & 7) << 5 | raw[1] >> 3) != _ACCOUNT:
            raise ValueError("not the seed of an account key")
        self._key = Ed25519PrivateKey.from_private_bytes(raw[2:])
        self.public = _encode(bytes([_ACCOUNT]) + self._key.public_key().public_bytes_raw())

    def sign(self, claims: dict[str, Any]) -> str:
        """A JWT of these claims, issued by this key. Times are whole seconds."""
        body = {**claims, "iss": self.public}
        body["jti"] = (
            base64.b32encode(hashlib.sha256(msgspec.json.encode(body)).digest()).decode().rstrip("=")
        )
        signed = f"{_base64(_HEADER)}.{_base64(msgspec.json.encode(body))}"
        return f"{signed}.{_base64(self._key.sign(signed.encode()))}"


def claims_of(text: bytes) -> dict[str, Any]:
    """The claims of a JWT that its own issuer signed; whether that is to be trusted is the caller's to know. Raises BadJwt."""
    try:
        signed, _, signature = text.rpartition(b".")
        header, _, body = signed.partition(b".")
        claims = msgspec.json.decode(_unbase64(body), type=dict[str, Any])
        if msgspec.json.decode(_unbase64(header)).get("alg") != "ed25519-nkey":
            raise BadJwt("another algorithm")
        key = Ed25519PublicKey.from_public_bytes(_decode(str(claims["iss"]))[1:])
        key.verify(_unbase64(signature), signed)
    except BadJwt:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature, msgspec.MsgspecError) as error:
        raise BadJwt(type(error).__name__) from None
    return claims


def _encode(raw: bytes) -> str:
    # XMODEM's CRC-16, little-endian at the end; binascii has just that one.
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _decode(text: str) -> bytes:
    """Raises ValueError."""
    data = base64.b32decode(text + "=" * (-len(text) % 8))
    raw, crc = data[:-2], data[-2:]
    if binascii.crc_hqx(raw, 0).to_bytes(2, "little") != crc:
        raise ValueError("an nkey whose checksum is wrong")
    return raw


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unbase64(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
