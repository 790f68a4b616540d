"""Signed files, read with the library's own reader."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from service.runtime.credentials.reading import read_credential
from service.runtime.credentials.signing import (
    Signer,
    SigningMisconfigured,
    create_signer,
)
from service.runtime.images.encoding import ImageFormat, encode, read_provenance
from service.runtime.images.xmp import SourceType, read_source_type
from tests.support.certificates import write_signing_files

PROVENANCE = {"model": "flowers", "version": "3", "digest": "sha256:ab", "seed": 7}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_signing_files(tmp_path_factory.mktemp("signing"))


@pytest.fixture(scope="module")
def signer(files):
    return Signer(files.certificate, files.key)


def image_file(image_format=ImageFormat.PNG, provenance=PROVENANCE, side=64, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, channels), np.uint8)
    return encode(pixels, image_format, provenance)


def manifest_of(content, media_type, root):
    settings = {"verify": {"verify_trust": True}, "trust": {"user_anchors": root.read_text()}}
    context = c2pa.Context(c2pa.Settings.from_dict(settings))
    with c2pa.Reader(media_type, io.BytesIO(content), context=context) as reader:
        assert reader.get_validation_state() == "Trusted", reader.json()
        return reader.get_active_manifest()


def assertion(manifest, label):
    (found,) = [each["data"] for each in manifest["assertions"] if each["label"] == label]
    return found


def test_parameters_are_read_as_they_were_signed(signer):
    """Numbers stay numbers: also a list of small integers, and one that only ends in one."""
    parameters = {"resized": [72, 72], "z": [0.5, 1], "boxes": [[1, 2, 3, 400]], "text": "\u00e9"}
    signed = signer.sign(image_file(), "image/png", parameters)
    assert read_credential(signed).generation == parameters


@pytest.mark.parametrize("image_format", ImageFormat)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_signed_images_keep_their_pixels_and_metadata(files, signer, image_format, channels):
    content = image_file(image_format, channels=channels)
    signed = signer.sign(content, image_format.media_type, PROVENANCE)
    manifest = manifest_of(signed, image_format.media_type, files.root)
    (action,) = assertion(manifest, "c2pa.actions.v2")["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"] == SourceType.GENERATED.uri
    stated = assertion(manifest, "ganymede.generation")
    assert json.loads(stated["parameters"]) == PROVENANCE
    assert "thumbnail" not in manifest
    with Image.open(io.BytesIO(content)) as before, Image.open(io.BytesIO(signed)) as after:
        assert read_provenance(after) == PROVENANCE
        assert np.array_equal(np.asarray(before), np.asarray(after))
    assert read_source_type(signed) == SourceType.GENERATED.uri


def test_an_input_image_is_an_ingredient(files, signer):
    provenance = PROVENANCE | {"input": "sha256:0123"}
    content = image_file(provenance=provenance)
    manifest = manifest_of(signer.sign(content, "image/png", provenance), "image/png", files.root)
    (action,) = assertion(manifest, "c2pa.actions.v2")["actions"]
    assert action["digitalSourceType"] == SourceType.COMPOSITE.uri
    (ingredient,) = manifest["ingredients"]
    assert ingredient["relationship"] == "inputTo"
    assert ingredient["instance_id"] == "sha256:0123"


def test_the_size_grows_by_a_few_kilobytes(signer):
    content = image_file(side=512)
    assert len(signer.sign(content, "image/png", PROVENANCE)) - len(content) < 6000


@pytest.mark.parametrize("kind", ["p384", "p521", "ed25519", "rsa"])
def test_all_key_types_of_the_standard_sign(tmp_path, kind):
    files = write_signing_files(tmp_path, kind)
    signed = Signer(files.certificate, files.key).sign(image_file(), "image/png", PROVENANCE)
    manifest_of(signed, "image/png", files.root)


def test_keys_in_the_older_format_sign(tmp_path):
    files = write_signing_files(tmp_path)
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    older = serialization.PrivateFormat.TraditionalOpenSSL
    encryption = serialization.NoEncryption()
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, older, encryption))
    signed = Signer(files.certificate, files.key).sign(image_file(), "image/png", PROVENANCE)
    manifest_of(signed, "image/png", files.root)


def test_one_signer_serves_several_threads(files, signer):
    content = image_file()
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda _: signer.sign(content, "image/png", PROVENANCE), range(32)))
    for each in signed:
        manifest_of(each, "image/png", files.root)
    assert len(set(signed)) == 32


def refused(certificate, key) -> str:
    with pytest.raises(SigningMisconfigured) as caught:
        Signer(certificate, key)
    message = str(caught.value)
    assert "\n" not in message
    assert "PRIVATE KEY" not in message
    return message


def test_missing_files_are_named(files, tmp_path):
    assert "cannot be read" in refused(tmp_path / "missing.pem", files.key)
    assert str(tmp_path / "missing.key") in refused(files.certificate, tmp_path / "missing.key")


def test_files_that_are_not_pem_are_refused(files):
    assert "is not a certificate chain" in refused(files.key, files.key)
    assert "is not a private key" in refused(files.certificate, files.certificate)


def test_a_key_of_another_certificate_is_refused(files, tmp_path):
    other = write_signing_files(tmp_path)
    assert "is not the key of the certificate" in refused(files.certificate, other.key)


def test_an_encrypted_key_is_refused(tmp_path):
    files = write_signing_files(tmp_path, password=b"secret")
    assert "is encrypted" in refused(files.certificate, files.key)


def test_an_unsupported_curve_is_refused(tmp_path):
    files = write_signing_files(tmp_path, "k256")
    assert "unsupported type" in refused(files.certificate, files.key)


def test_an_expired_certificate_is_refused(tmp_path):
    files = write_signing_files(tmp_path, days=-1)
    assert "expired" in refused(files.certificate, files.key)


def test_a_certificate_for_another_purpose_is_refused(tmp_path):
    files = write_signing_files(tmp_path, usage=ExtendedKeyUsageOID.SERVER_AUTH)
    assert "cannot be used to sign" in refused(files.certificate, files.key)


def test_a_setting_without_its_counterpart_is_refused(files):
    cases = [
        ((files.certificate, None, False), "--c2pa-key is missing"),
        ((None, files.key, False), "--c2pa-certificate is missing"),
        ((None, None, True), "--c2pa-default needs"),
    ]
    for (certificate, key, required), words in cases:
        with pytest.raises(SigningMisconfigured, match=words):
            create_signer(certificate, key, required=required)
    assert create_signer(None, None, required=False) is None
