"""`ganymede verify`: files of Ganymede, changed ones, and files of other software."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.api.responses import identity
from service.offline.verification.verify import Verdict, verify
from service.runtime.credentials import library
from service.runtime.credentials.reading import Validity
from service.runtime.credentials.signing import Signer
from service.runtime.generation import execute, image_plan
from service.runtime.images import png, xmp
from service.runtime.images.encoding import ImageFormat, encode
from service.runtime.images.xmp import SourceType
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.certificates import ORGANIZATION, SIGNER, write_signing_files
from tests.support.command import assert_one_line_error, run


@pytest.fixture(scope="module")
def model(drawn_repository):
    return Model(drawn_repository / "painted" / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


@pytest.fixture(scope="module")
def signing(tmp_path_factory):
    return write_signing_files(tmp_path_factory.mktemp("signing"))


@pytest.fixture(scope="module")
def signer(signing):
    return Signer(signing.certificate, signing.key)


def made_by(model, seed=7):
    """The pixels of a seed, and their provenance."""
    source = LatentSource(seed=seed)
    (pixels,) = execute(image_plan(model.manifest, [source]), model.run, 16)
    return pixels, identity(model) | source.parameters(model.manifest)


def write(path, content):
    path.write_bytes(content)
    return path


def saved(image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


@pytest.mark.parametrize("image_format", ImageFormat)
def test_an_image_of_the_model_is_verified(model, drawn_repository, tmp_path, image_format):
    pixels, provenance = made_by(model)
    path = write(tmp_path / "a", encode(pixels, image_format, provenance))
    result = verify(path, drawn_repository)
    assert result.verdict is Verdict.VERIFIED
    assert result.answer == "made by painted@1 from seed 7: the file is equal, byte for byte"
    assert result.source_type == SourceType.GENERATED.uri
    assert result.credential is None


def test_a_signed_image_of_the_model_is_verified(model, drawn_repository, tmp_path, signer):
    pixels, provenance = made_by(model)
    content = encode(pixels, ImageFormat.PNG, provenance)
    path = write(tmp_path / "a.png", signer.sign(content, "image/png", provenance))
    result = verify(path, drawn_repository)
    assert result.verdict is Verdict.VERIFIED
    assert "the pixels are equal" in result.answer
    # The proof is the reproduction: nobody vouches for the certificate.
    assert result.credential.validity is Validity.UNTRUSTED


@pytest.mark.parametrize("image_format", ImageFormat)
def test_changed_pixels_contradict_the_parameters(model, drawn_repository, tmp_path, image_format):
    pixels, provenance = made_by(model)
    changed = pixels.copy()
    changed[:4, :4] = 255 - changed[:4, :4]
    path = write(tmp_path / "a", encode(changed, image_format, provenance))
    result = verify(path, drawn_repository)
    assert result.verdict is Verdict.CONTRADICTED
    assert "states that it was made by painted@1 from seed 7, but" in result.answer


def test_other_parameters_do_not_verify(model, drawn_repository, tmp_path):
    pixels, provenance = made_by(model)
    content = encode(pixels, ImageFormat.PNG, provenance | {"seed": 8})
    result = verify(write(tmp_path / "a.png", content), drawn_repository)
    assert result.verdict is Verdict.CONTRADICTED


def test_a_difference_of_rounding_is_no_proof(model, drawn_repository, tmp_path):
    pixels, provenance = made_by(model)
    near = np.where(pixels < 255, pixels + 1, pixels).astype(np.uint8)
    path = write(tmp_path / "a.png", encode(near, ImageFormat.PNG, provenance))
    result = verify(path, drawn_repository)
    assert result.verdict is Verdict.UNPROVEN
    assert "at most 1 of 255" in result.answer


def test_a_missing_model_leaves_the_statement_unproven(model, tmp_path):
    pixels, provenance = made_by(model)
    path = write(tmp_path / "a.png", encode(pixels, ImageFormat.PNG, provenance))
    result = verify(path, tmp_path)
    assert result.verdict is Verdict.UNPROVEN
    assert "states that it was made by painted@1 from seed 7; not checked" in result.answer


def test_a_trusted_credential_is_a_proof_without_the_model(model, tmp_path, signer, signing):
    pixels, provenance = made_by(model)
    content = encode(pixels, ImageFormat.PNG, provenance)
    path = write(tmp_path / "a.png", signer.sign(content, "image/png", provenance))
    trusted = verify(path, tmp_path, signing.root.read_text())
    assert trusted.verdict is Verdict.VERIFIED
    assert trusted.answer.startswith(f"signed by {SIGNER} ({ORGANIZATION}) and unchanged since")
    untrusted = verify(path, tmp_path)
    assert untrusted.verdict is Verdict.UNPROVEN
    assert untrusted.answer.endswith("with a certificate that is not trusted")
    other = write_signing_files(tmp_path / "other")
    assert verify(path, tmp_path, other.root.read_text()).verdict is Verdict.UNPROVEN


def test_metadata_that_is_changed_after_signing_invalidates_the_credential(
    model, drawn_repository, tmp_path, signer, signing
):
    pixels, provenance = made_by(model)
    signed = signer.sign(encode(pixels, ImageFormat.PNG, provenance), "image/png", provenance)
    mark = xmp.png_chunk(SourceType.GENERATED)
    assert mark in signed
    path = write(tmp_path / "a.png", signed.replace(mark, xmp.png_chunk(SourceType.COMPOSITE)))
    result = verify(path, drawn_repository, signing.root.read_text())
    assert result.credential.validity is Validity.INVALID
    assert result.verdict is Verdict.CONTRADICTED
    assert "changed after it was signed" in result.answer


@pytest.mark.parametrize(
    ("image_format", "media_type"),
    [("GIF", "image/gif"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")],
)
def test_credentials_of_other_software_are_recognized(
    tmp_path, signer, signing, image_format, media_type
):
    content = saved(Image.new("RGB", (8, 8), "red"), format=image_format)
    path = write(tmp_path / "a", signer.sign(content, media_type, {}))
    result = verify(path, tmp_path, signing.root.read_text())
    assert result.verdict is Verdict.VERIFIED
    assert "synthetic: generated by a trained model" in result.answer
    assert result.parameters is None


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("trainedAlgorithmicMedia", "marked as synthetic"),
        ("digitalCapture", "marked as captured by a camera"),
        ("somethingNew", "marked as somethingNew"),
    ],
)
def test_marks_of_other_software_prove_nothing(tmp_path, term, words):
    packet = xmp.packet(SourceType.GENERATED).replace(b"trainedAlgorithmicMedia", term.encode())
    content = saved(Image.new("RGB", (8, 8), "red"), format="JPEG", xmp=packet)
    result = verify(write(tmp_path / "a.jpg", content), tmp_path)
    assert result.verdict is Verdict.UNPROVEN
    assert result.answer.startswith(words)


def test_a_mark_of_a_camera_contradicts_an_image_of_the_model(model, drawn_repository, tmp_path):
    pixels, provenance = made_by(model)
    content = encode(pixels, ImageFormat.JPEG, provenance)
    marked = content.replace(b"trainedAlgorithmicMedia", b"digitalCapture".ljust(23))
    assert marked != content
    result = verify(write(tmp_path / "a.jpg", marked), drawn_repository)
    assert result.verdict is Verdict.CONTRADICTED
    assert result.answer.endswith("the pixels are equal, but it is marked as captured by a camera")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"resized": [60_000, 60_000]}, "resized is [60000, 60000]"),
        (
            {"rows": [{"seed": 1}] * 10_000, "columns": [{"seed": 1}] * 10_000, "layers": [0]},
            "100,000,000 images do not fit",
        ),
        ({"directions": {"smile": [0.0] * 100_000}}, "100,000 images do not fit"),
    ],
)
def test_hostile_parameters_generate_nothing(model, drawn_repository, tmp_path, changes, reason):
    pixels, provenance = made_by(model)
    content = encode(pixels, ImageFormat.PNG, provenance | changes)
    result = verify(write(tmp_path / "a.png", content), drawn_repository)
    assert result.verdict is Verdict.UNPROVEN
    assert reason in result.not_reproduced


def test_a_mark_in_utf_16_is_not_parsed(tmp_path):
    text = xmp.packet(SourceType.GENERATED).decode()
    packet = ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + text).encode("utf-16")
    content = saved(Image.new("RGB", (8, 8), "red"), format="JPEG", xmp=packet)
    assert verify(write(tmp_path / "a.jpg", content), tmp_path).source_type is None


def test_a_credential_outside_its_place_is_not_called_invalid(tmp_path, signer):
    plain = saved(Image.new("RGB", (8, 8)), format="PNG")
    signed = signer.sign(plain, "image/png", {})
    # In a chunk of another name, no reader of credentials finds it.
    (store,) = [body for kind, body in png.chunks(signed) if kind == b"caBX"]
    moved = plain[:-12] + png.chunk(b"teSt", store) + plain[-12:]
    result = verify(write(tmp_path / "a.png", moved), tmp_path)
    assert result.verdict is Verdict.UNPROVEN
    assert result.credential.validity is Validity.UNREAD


def test_a_file_without_a_mark_is_not_called_real(tmp_path):
    path = write(tmp_path / "a.png", saved(Image.new("L", (8, 8)), format="PNG"))
    result = verify(path, tmp_path)
    assert result.verdict is Verdict.UNPROVEN
    assert result.answer == "no mark: the file does not state where it comes from"


def test_a_credential_is_noticed_without_the_library(tmp_path, signer, monkeypatch):
    content = saved(Image.new("RGB", (8, 8)), format="PNG")
    path = write(tmp_path / "a.png", signer.sign(content, "image/png", {}))
    monkeypatch.setattr(library, "is_installed", lambda: False)
    result = verify(path, tmp_path)
    assert result.verdict is Verdict.UNPROVEN
    assert "the extra c2pa is not installed" in result.answer


def test_text_in_files_cannot_control_the_terminal(tmp_path):
    info = PngInfo()
    hostile = {"model": "\x1b[31mred\n\n", "version": "x" * 500, "digest": "", "seed": 1}
    info.add_text("ganymede", json.dumps(hostile))
    path = write(tmp_path / "a.png", saved(Image.new("L", (8, 8)), format="PNG", pnginfo=info))
    lines = verify(path, tmp_path).lines
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 500


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "WEBP"])
def test_damaged_files_are_one_clear_line(tmp_path, image_format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = saved(Image.fromarray(noise), format=image_format)
    for part in (content[: len(content) // 2], content[:20]):
        result = verify(write(tmp_path / "a", part), tmp_path)
        assert result.verdict is Verdict.UNREADABLE
        assert "damaged or truncated" in result.answer
        assert len(result.lines) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an image"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x00\x00\x00\x18ftypmp42", "damaged or truncated video"),
    ],
)
def test_other_files_are_one_clear_line(tmp_path, content, words):
    result = verify(write(tmp_path / "a", content), tmp_path)
    assert result.verdict is Verdict.UNREADABLE
    assert words in result.answer


def test_folders_and_missing_files_are_one_clear_line(tmp_path):
    assert verify(tmp_path, tmp_path).verdict is Verdict.UNREADABLE
    assert "No such file" in verify(tmp_path / "missing", tmp_path).answer


def test_the_command_reports_every_file(model, drawn_repository, tmp_path):
    pixels, provenance = made_by(model)
    good = write(tmp_path / "good.png", encode(pixels, ImageFormat.PNG, provenance))
    wrong = encode(pixels, ImageFormat.PNG, provenance | {"seed": 8})
    files = {
        good: 0,
        write(tmp_path / "plain.png", saved(Image.new("L", (8, 8)), format="PNG")): 3,
        write(tmp_path / "wrong.png", wrong): 1,
        write(tmp_path / "text.png", b"hello"): 2,
    }
    done = run("verify", *files, "--models", drawn_repository, "--json")
    assert done.returncode == 2
    verdicts = [each["verdict"] for each in json.loads(done.stdout)]
    assert verdicts == ["verified", "unproven", "contradicted", "unreadable"]
    assert json.loads(done.stdout)[0]["reproduction"]["identical"] is True
    shown = run("verify", good, "--models", drawn_repository)
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"{good}: made by painted@1 from seed 7")
    assert "mark: synthetic: generated by a trained model" in shown.stdout


def test_trust_anchors_must_be_certificates(tmp_path):
    plain = write(tmp_path / "plain.png", saved(Image.new("L", (8, 8)), format="PNG"))
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    for anchors in (tmp_path / "missing.pem", plain, damaged):
        assert_one_line_error(run("verify", plain, "--trust", anchors), 2, "--trust", anchors.name)
