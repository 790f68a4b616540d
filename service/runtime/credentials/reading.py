"""Reads Content Credentials (C2PA) from files of any origin, and validates them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.runtime.credentials import library
from service.runtime.credentials.signing import GENERATION_FIELD, GENERATION_LABEL
from service.runtime.errors import first_line
from service.runtime.images.file_formats import image_format_of

# How a manifest begins, in every file format: the description box of a JUMBF superbox (ISO 19566-5)
# with the UUID of C2PA's manifest stores.
_MANIFEST_STORE = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"
# The media types that the library reads, by the names of `file_formats`.
_MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WebP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
    "JPEG XL": "image/jxl",
    "SVG": "image/svg+xml",
}
_UNTRUSTED = "signingCredential.untrusted"


class Validity(StrEnum):
    """What the signature of a credential proves."""

    # The file is unchanged since it was signed, by the owner of a certificate that leads to a
    # trust anchor.
    TRUSTED = "trusted"
    # The file is unchanged since it was signed, with a certificate that anybody can make.
    UNTRUSTED = "untrusted"
    # The file was changed after it was signed, or the credential itself is not valid.
    INVALID = "invalid"
    # The credential was not read: it is damaged, or the library is not installed.
    UNREAD = "unread"


@dataclass(frozen=True)
class Credential:
    """A credential in a file, and what is wrong with it.

    Attributes:
        reason: why it is invalid or was not read; otherwise empty.
        signer: the name in the certificate, and the organization in parentheses.
        generator: the software that made the claim, with its version.
        source_type: the URI of the IPTC digital source type that it states, if any.
        generation: the model and the parameters that Ganymede states, if it does.
    """

    validity: Validity
    reason: str = ""
    signer: str | None = None
    generator: str | None = None
    source_type: str | None = None
    generation: Mapping[str, Any] | None = None


def read_credential(content: bytes, trust_anchors: str | None = None) -> Credential | None:
    """Return the credential in the content of a file, or None.

    `trust_anchors` are certificates in PEM that the reader trusts; without them, no credential is
    trusted. The network is never used. Without the library, a credential is only noticed.
    """
    if _MANIFEST_STORE not in content:
        return None
    if not library.is_installed():
        return Credential(Validity.UNREAD, "the extra c2pa is not installed")
    media_type = _media_type(content)
    if media_type is None:
        return Credential(Validity.UNREAD, "credentials of this file format cannot be read")
    c2pa = library.load()
    settings: dict[str, Any] = {"verify": {"verify_trust": True}}
    if trust_anchors is not None:
        settings["trust"] = {"user_anchors": trust_anchors}
    try:
        with c2pa.Reader(
            media_type, io.BytesIO(content), context=library.context(settings)
        ) as reader:
            manifest = reader.get_active_manifest() or {}
            results = reader.get_validation_results() or {}
    except c2pa.C2paError.ManifestNotFound:
        # The bytes of a manifest are in a part of the file that does not hold credentials.
        return Credential(Validity.UNREAD, "it is not where this file format keeps credentials")
    except c2pa.C2paError as error:
        return Credential(Validity.INVALID, first_line(error))
    return _credential(manifest, results.get("activeManifest", {}))


def _credential(manifest: Mapping[str, Any], results: Mapping[str, Any]) -> Credential:
    failures = [each for each in results.get("failure", []) if each["code"] != _UNTRUSTED]
    succeeded = {each["code"] for each in results.get("success", [])}
    signature = manifest.get("signature_info") or {}
    if failures:
        validity, reason = Validity.INVALID, _reason(failures[0])
    elif "claimSignature.validated" not in succeeded:
        validity, reason = Validity.INVALID, "it has no valid signature"
    elif "signingCredential.trusted" in succeeded:
        validity, reason = Validity.TRUSTED, ""
    else:
        validity, reason = Validity.UNTRUSTED, ""
    generators = manifest.get("claim_generator_info") or []
    assertions = {each["label"]: each.get("data") for each in manifest.get("assertions", [])}
    return Credential(
        validity,
        reason,
        _named(signature.get("common_name"), signature.get("issuer")),
        " ".join(filter(None, (generators[0].get("name"), generators[0].get("version"))))
        if generators
        else manifest.get("claim_generator"),
        _source_type(assertions),
        _generation(assertions.get(GENERATION_LABEL)),
    )


def _generation(data: object) -> Mapping[str, Any] | None:
    """Return the parameters that the assertion of Ganymede holds; None if it is another."""
    text = data.get(GENERATION_FIELD) if isinstance(data, Mapping) else None
    if not isinstance(text, str):
        return None
    with contextlib.suppress(ValueError):
        parameters = json.loads(text)
        if isinstance(parameters, dict):
            return parameters
    return None


def _reason(failure: Mapping[str, Any]) -> str:
    """Return a failure of the library for a user: what it means, and its code in C2PA."""
    code = str(failure["code"])
    meanings = {
        "assertion.dataHash.mismatch": "the file was changed after it was signed",
        "assertion.bmffHash.mismatch": "the file was changed after it was signed",
        "claimSignature.mismatch": "the signature does not fit",
        "signingCredential.expired": "the certificate has expired",
        "signingCredential.invalid": "the certificate is not valid for this purpose",
    }
    return f"{meanings.get(code) or failure.get('explanation') or 'not valid'} ({code})"


def _source_type(assertions: Mapping[str, Any]) -> str | None:
    """Return the first digital source type of the actions, which is that of the creation."""
    for label, data in assertions.items():
        actions = data.get("actions") if isinstance(data, Mapping) else None
        if label.startswith("c2pa.actions") and isinstance(actions, list):
            for action in actions:
                if isinstance(action, Mapping) and (uri := action.get("digitalSourceType")):
                    return str(uri)
    return None


def _named(name: str | None, organization: str | None) -> str | None:
    if name and organization and name != organization:
        return f"{name} ({organization})"
    return name or organization


def _media_type(content: bytes) -> str | None:
    name = image_format_of(content)
    if name is None and content[4:8] == b"ftyp":
        return "video/quicktime" if content[8:10] == b"qt" else "video/mp4"
    return _MEDIA_TYPES.get(name or "")
