"""Certificates of an authority that nobody trusts, for tests of Content Credentials."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SIGNER = "Test Signer"
ORGANIZATION = "Ganymede Tests"
_PEM = serialization.Encoding.PEM
_KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65_537, 2048),
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
}


@dataclass(frozen=True)
class SigningFiles:
    """The files of a signer: its certificate chain, its key, and the certificate of the root."""

    certificate: Path
    key: Path
    root: Path

    @property
    def flags(self) -> list[str]:
        """The options of `ganymede serve`."""
        return ["--c2pa-certificate", str(self.certificate), "--c2pa-key", str(self.key)]


def write_signing_files(
    folder: Path,
    kind: str = "p256",
    *,
    days: int = 30,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    password: bytes | None = None,
) -> SigningFiles:
    """Create a root, and a signer whose certificate ends in `days` from now."""
    folder.mkdir(parents=True, exist_ok=True)
    root_key, key = _KEYS["p256"](), _KEYS[kind]()
    now = datetime.datetime.now(datetime.UTC)
    root_name, name = _name("Test Root"), _name(SIGNER)
    begin, end = now - datetime.timedelta(days=90), now + datetime.timedelta(days=days)
    root_id = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = (
        _builder(root_name, root_name, root_key, begin, now + datetime.timedelta(days=90))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(root_id, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    leaf = (
        _builder(name, root_name, key, begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(authority, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    files = SigningFiles(folder / "chain.pem", folder / "key.pem", folder / "root.pem")
    files.certificate.write_bytes(leaf.public_bytes(_PEM))
    files.root.write_bytes(root.public_bytes(_PEM))
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    files.key.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption))
    return files


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
        ]
    )


def _builder(subject, issuer, key, begin, end) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
