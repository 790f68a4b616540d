"""Signs image files with Content Credentials (C2PA 2.x).

The signed manifest states that the file was created by a trained model, with which parameters, and
by which version of Ganymede. Signing is the last step: the signature covers all bytes of the file,
including the metadata that `ganymede reproduce` reads. Two signatures of one file differ, because
each contains a random salt, an identifier and, with some keys, a random number.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from service import __version__
from service.runtime.credentials import library
from service.runtime.errors import UserError, first_line
from service.runtime.images.encoding import ImageFormat, encode, provenance_text
from service.runtime.images.xmp import SourceType

# The media types that are signed. WebM and Matroska have no place for a manifest.
SIGNED_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "video/mp4")
# The assertion with the parameters of the generation. Labels that do not begin with `c2pa` are
# defined by the software that writes them.
GENERATION_LABEL = "ganymede.generation"
# Its only field: the parameters as text, in JSON. As values they would not survive, because the
# reader of c2pa-python 0.38 takes a list that ends in a small integer for bytes.
GENERATION_FIELD = "parameters"
_ACTIONS_LABEL = "c2pa.actions.v2"
_SETTINGS = {
    # Without these settings, the manifest contains another copy of the image as a thumbnail, and
    # each file is read again and verified after it was signed.
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False},
}


class SigningFailed(Exception):
    """A file could not be signed. The message names the cause, and never the key."""


class SigningMisconfigured(UserError):
    """The certificate or the key cannot be used."""


class Signer:
    """Signs files with one private key and its certificate chain. Thread-safe."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read a certificate chain and a private key, both PEM, and sign a small image with them.

        The chain begins with the certificate of the key; the certificate of the root is left out or
        comes last. Raises SigningMisconfigured and CredentialsUnavailable.
        """
        self._c2pa = library.load()
        chain = _read(certificate, "the certificate")
        algorithm, private_key = _check_pair(certificate, chain, key, _read(key, "the key"))
        self._context = library.context(_SETTINGS)
        try:
            self._signer = self._c2pa.Signer.from_info(
                self._c2pa.C2paSignerInfo(
                    self._c2pa.C2paSigningAlg[algorithm], chain, private_key, None
                )
            )
            self._assert_usable()
        except (self._c2pa.C2paError, SigningFailed) as error:
            raise SigningMisconfigured(
                f"{certificate} cannot be used to sign Content Credentials: {_cause(error)}"
            ) from error

    def sign(self, content: bytes, media_type: str, provenance: Mapping[str, Any]) -> bytes:
        """Return the file `content` with a credential.

        `provenance` identifies the model, and has the parameters of the generation. Raises
        SigningFailed.
        """
        signed = io.BytesIO()
        try:
            manifest = json.dumps(_manifest(provenance))
            with self._c2pa.Builder(manifest, self._context) as builder:
                builder.sign(self._signer, media_type, io.BytesIO(content), signed)
        except self._c2pa.C2paError as error:
            raise SigningFailed(f"the file cannot be signed: {_cause(error)}") from error
        return signed.getvalue()

    def _assert_usable(self) -> None:
        """Sign a small image and verify it. Raises SigningFailed and the errors of the library."""
        content = encode(np.zeros((1, 1, 3), np.uint8), ImageFormat.PNG, {})
        signed = self.sign(content, "image/png", {})
        with self._c2pa.Reader("image/png", io.BytesIO(signed), context=self._context) as reader:
            results = reader.get_validation_results()["activeManifest"]
        for failure in results["failure"]:
            # Whether anybody trusts the certificate is not for the signer to decide.
            if failure["code"] != "signingCredential.untrusted":
                raise SigningFailed(f"{failure['explanation']} ({failure['code']})")


def create_signer(certificate: Path | None, key: Path | None, *, required: bool) -> Signer | None:
    """Return the signer of a server's settings; None if there is none, unless it is `required`.

    Raises SigningMisconfigured and CredentialsUnavailable.
    """
    if certificate is not None and key is not None:
        return Signer(certificate, key)
    if certificate is not None or key is not None:
        missing = "--c2pa-key" if key is None else "--c2pa-certificate"
        raise SigningMisconfigured(
            f"{missing} is missing: signing needs both a certificate and its key"
        )
    if required:
        raise SigningMisconfigured("--c2pa-default needs --c2pa-certificate and --c2pa-key")
    return None


def _manifest(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition of a manifest for `c2pa.Builder`."""
    generator = {"name": "Ganymede", "version": __version__}
    action = {
        "action": "c2pa.created",
        "digitalSourceType": SourceType.of(provenance).uri,
        "softwareAgent": generator,
    }
    manifest: dict[str, Any] = {
        "claim_generator_info": [generator],
        "assertions": [
            {"label": _ACTIONS_LABEL, "data": {"actions": [action]}},
            {"label": GENERATION_LABEL, "data": {GENERATION_FIELD: provenance_text(provenance)}},
        ],
    }
    if isinstance(digest := provenance.get("input"), str):
        # Of the pixels and not of the file, which `ganymede` compares as well.
        manifest["ingredients"] = [
            {
                "title": "input image",
                "format": "application/octet-stream",
                "relationship": "inputTo",
                "instance_id": f"sha256:{digest.removeprefix('sha256:')}",
            }
        ]
    return manifest


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningMisconfigured(f"{path}: {name} cannot be read: {error.strerror}") from error


def _check_pair(certificate: Path, chain: bytes, key: Path, key_file: bytes) -> tuple[str, bytes]:
    """Return the name of the signature algorithm of a key, and the key as PKCS #8 in PEM.

    Raises SigningMisconfigured. cryptography is a dependency of c2pa-python.
    """
    from cryptography import x509  # noqa: PLC0415 - an extra
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        certified = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningMisconfigured(f"{certificate} is not a certificate chain in PEM") from error
    try:
        private = serialization.load_pem_private_key(key_file, password=None)
    except TypeError as error:
        raise SigningMisconfigured(
            f"{key} is encrypted: expected a key without a password"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningMisconfigured(f"{key} is not a private key in PEM") from error
    der = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*der) != certified.public_bytes(*der):
        raise SigningMisconfigured(f"{key} is not the key of the certificate in {certificate}")
    algorithm = _algorithm(private)
    if algorithm is None:
        raise SigningMisconfigured(
            f"{key} has an unsupported type: expected an elliptic curve (P-256, P-384, P-521), "
            "Ed25519 or RSA"
        )
    return algorithm, private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _algorithm(key: Any) -> str | None:
    """Return the name of the algorithm in C2PA for a private key; None if there is none."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    match key:
        case ec.EllipticCurvePrivateKey():
            curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
            return curves.get(key.curve.name)
        case ed25519.Ed25519PrivateKey():
            return "ED25519"
        case rsa.RSAPrivateKey():
            return "PS256"
        case _:
            return None


def _cause(error: Exception) -> str:
    """Return the library's reason without the names of its error types."""
    reason = first_line(error)
    with contextlib.suppress(ValueError):
        kind, rest = reason.split(": ", 1)
        if kind.isidentifier():
            reason = rest
    return reason
