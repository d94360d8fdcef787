"""Credentials for development: a key that signs tokens, a CA that signs certificates, made on first use in a folder.

Not for production: whoever reads the folder can be any vehicle. Keys are EC P-256; files are readable by us alone. What each
command prints of it works against `fleetcast up` on this machine.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetcast.errors import Unusable
from fleetcast.machine import write

_DAY = 24 * 3600
_LONG = 3650  # days, of the CA and of the server


class DevelopmentPki:
    """`DevelopmentPki(folder)` makes what is missing there."""

    def __init__(self, folder: Path) -> None:
        """Raises Unusable if the folder cannot be written to, or holds something else."""
        self.token_key = folder / "token-key.pem"
        self.vehicle_keys = folder / "vehicle-keys.pem"
        self.app_token_key = folder / "app-token-key.pem"
        self.app_keys = folder / "app-keys.pem"
        self.ca, self._ca_key = folder / "ca.pem", folder / "ca-key.pem"
        self.server, self.server_key = folder / "server.pem", folder / "server-key.pem"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._make()
            self._signer = _read(self._ca_key)
            self._issuer = x509.load_pem_x509_certificate(self.ca.read_bytes())
        except (OSError, ValueError) as error:
            raise Unusable(f"{folder}: {error}") from None

    def token(self, vehicle: str, days: float, **claims: str) -> str:
        """Signed with ES256; `claims` may add `iss` and `aud`."""
        now = int(time.time())
        body = {"sub": vehicle, "iat": now, "exp": now + int(days * _DAY), **claims}
        return jwt.encode(body, _read(self.token_key), algorithm="ES256")

    def app_token(self, user: str, vehicles: Sequence[str], seconds: float, **claims: object) -> str:
        """An app's, by a key of its own; `claims` may add `iss`, `aud`, `fleets`, and others."""
        now = int(time.time())
        body = {
            "sub": user,
            "jti": secrets.token_hex(8),
            "iat": now,
            "exp": now + int(seconds),
            "vehicles": list(vehicles),
            **claims,
        }
        return jwt.encode(body, _read(self.app_token_key), algorithm="ES256")

    def certificate(self, vehicle: str, days: float, into: Path) -> tuple[Path, Path]:
        """The vehicle's certificate and its key, as files in this folder."""
        return self._issue(vehicle, days, into / f"{vehicle}.pem", into / f"{vehicle}-key.pem", client=True)

    def _make(self) -> None:
        for private, public in (
            (self.token_key, self.vehicle_keys),
            (self.app_token_key, self.app_keys),
        ):
            if not public.exists():
                made_public = _new(private).public_key()
                write(
                    public, made_public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
                )
        if not self.ca.exists():
            key = _new(self._ca_key)
            name = _name("fleetcast development CA")
            usage = x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            )
            made = (
                _builder(name, name, key, _LONG)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(usage, critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            )
            write(self.ca, _pem(made.sign(key, hashes.SHA256())))
        if not self.server.exists():
            self._signer = _read(self._ca_key)
            self._issuer = x509.load_pem_x509_certificate(self.ca.read_bytes())
            self._issue("localhost", _LONG, self.server, self.server_key, client=False)

    def _issue(
        self, name: str, days: float, certificate: Path, key_file: Path, *, client: bool
    ) -> tuple[Path, Path]:
        key = _new(key_file)
        use = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        signer = self._issuer.public_key()
        assert isinstance(signer, ec.EllipticCurvePublicKey)
        made = (
            _builder(_name(name), self._issuer.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        )
        if not client:
            names = [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
            ]
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        write(certificate, _pem(made.sign(self._signer, hashes.SHA256())))
        return certificate, key_file


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _new(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    return key


def _read(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path.name} is no EC key")  # noqa: TRY004 - a bad file, no bug
    return key
