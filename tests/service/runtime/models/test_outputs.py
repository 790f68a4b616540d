import hashlib
import json

import numpy as np
import pytest

from service.runtime.models.catalog import Catalog, State
from service.runtime.models.golden import GOLDEN_SAMPLES_FILE
from service.runtime.models.manifest import MANIFEST_FILE, Manifest, ManifestError, read_manifest
from service.runtime.models.model import GoldenMatch, Model
from service.runtime.onnx.sessions import ExecutionPlan, GraphError, Provider
from tests.support.drawn_models import SAMPLES, SIZE, TEXT, VOCABULARY
from tests.support.output_models import AUDIO, CAPTIONED, ENCODER, TEXT_MODEL, write_output_models

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


@pytest.fixture
def models(tmp_path):
    write_output_models(tmp_path)
    return tmp_path


def load(models, name) -> Model:
    return Model(models / name / "1", Provider.CPU, PLAN)


def edit(folder, change):
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def reason(models, name) -> str:
    catalog = Catalog(models, Provider.CPU, PLAN)
    catalog.load()
    entry = catalog.entry(name)
    assert entry.state is State.FAILED
    return entry.reason


def test_models_of_every_output_are_ready_and_reproduce_their_golden_outputs(models):
    catalog = Catalog(models, Provider.CPU, PLAN)
    catalog.load()
    assert {entry.name: (entry.state, entry.golden) for entry in catalog.entries} == {
        AUDIO: (State.READY, GoldenMatch.EXACT),
        TEXT_MODEL: (State.READY, GoldenMatch.EXACT),
        CAPTIONED: (State.READY, GoldenMatch.EXACT),
        ENCODER: (State.READY, None),
    }


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        (AUDIO, np.int16, (3, SAMPLES)),
        (CAPTIONED, np.uint8, (3, SIZE, SIZE, 3)),
        (TEXT_MODEL, np.float32, (3, len(VOCABULARY))),
        (ENCODER, np.float32, (3, TEXT)),
    ],
)
def test_model_returns_the_output_of_its_manifest(models, name, dtype, shape):
    output = load(models, name).generate([0, 1, 2])
    assert (output.dtype, output.shape) == (dtype, shape)


@pytest.mark.parametrize(
    ("name", "cost"),
    [(AUDIO, SAMPLES), (CAPTIONED, SIZE * SIZE), (TEXT_MODEL, len(VOCABULARY)), (ENCODER, TEXT)],
)
def test_cost_of_a_row(models, name, cost):
    model = load(models, name)
    role = model.manifest.main_role
    assert model.pixels_per_row(role, model.feeds([0])) == cost
    # Text encoders run each text alone: in a batch, the last bits of a sum can differ.
    assert model.max_rows(cost) == (1 if name == ENCODER else PLAN.max_rows)


def test_golden_digest_is_that_of_the_samples(models):
    model = load(models, AUDIO)
    golden = model.manifest.golden[0]
    samples = model.generate([golden.seed], [golden.class_index])[0]
    assert golden.sha256 == hashlib.sha256(samples.tobytes()).hexdigest()


def test_nearly_equal_samples_are_accepted(models):
    folder = models / AUDIO / "1"
    samples = np.load(folder / GOLDEN_SAMPLES_FILE)
    samples[0, 0] += 3
    np.save(folder / GOLDEN_SAMPLES_FILE, samples)
    digest = hashlib.sha256(samples[0].tobytes()).hexdigest()
    edit(folder, lambda m: m["golden"][0].update(sha256=digest))
    catalog = Catalog(models, Provider.CPU, PLAN)
    catalog.load()
    assert catalog.entry(AUDIO).golden is GoldenMatch.NEAR


def test_different_samples_are_refused(models):
    folder = models / AUDIO / "1"
    samples = np.load(folder / GOLDEN_SAMPLES_FILE)
    samples[0] //= 2
    np.save(folder / GOLDEN_SAMPLES_FILE, samples)
    digest = hashlib.sha256(samples[0].tobytes()).hexdigest()
    edit(folder, lambda m: m["golden"][0].update(sha256=digest))
    assert "the output of seed 0 differs" in reason(models, AUDIO)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"\x93NUMPY\x01\x00\x10\x00{broken        }", "cannot be read"),
        (np.zeros((4, 5), np.int16), "does not have the shape"),
        (np.zeros((4, SAMPLES), np.float32), "does not have the shape"),
    ],
)
def test_invalid_golden_samples_are_refused(models, data, message):
    folder = models / AUDIO / "1"
    path = folder / GOLDEN_SAMPLES_FILE
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        np.save(path, data)
    edit(folder, lambda m: m["golden"][0].update(sha256="0" * 64))
    assert message in reason(models, AUDIO)


def test_different_texts_are_refused(models):
    edit(
        models / TEXT_MODEL / "1",
        lambda m: [each.update(sha256="0" * 64) for each in m["golden"][:3]],
    )
    assert "3 of 4 texts differ" in reason(models, TEXT_MODEL)


def test_changed_vocabulary_is_refused(models):
    (models / TEXT_MODEL / "1" / "vocabulary.json").write_text('["a"]')
    with pytest.raises(GraphError, match=r"vocabulary\.json has sha256"):
        load(models, TEXT_MODEL)


def test_changed_tokenizer_is_refused(models):
    (models / ENCODER / "1" / "tokenizer.json").unlink()
    with pytest.raises(GraphError, match=r"tokenizer\.json cannot be read"):
        load(models, ENCODER)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (AUDIO, lambda m: m["audio"].update(sample_rate=16_000)),
        (TEXT_MODEL, lambda m: m["text"]["vocabulary"].update(sha256="0" * 64)),
        (ENCODER, lambda m: m["text_encoder"]["tokenizer"].update(sha256="0" * 64)),
        (CAPTIONED, lambda m: m["text_input"].update(encoder_digest="sha256:" + "0" * 64)),
    ],
)
def test_digest_depends_on_the_output(models, name, change):
    folder = models / name / "1"
    before = read_manifest(folder).digest
    edit(folder, change)
    assert read_manifest(folder).digest != before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (AUDIO, lambda m: m.pop("audio"), "task audio needs audio, got none"),
        (
            AUDIO,
            lambda m: m.update(image={"height": 1, "width": 1, "channels": 1}),
            "task audio needs audio, got image, audio",
        ),
        (AUDIO, lambda m: m.update(task="generate"), "task generate needs image, got audio"),
        (AUDIO, lambda m: m["graphs"]["generator"].update(outputs=["pixels"]), "return samples"),
        (AUDIO, lambda m: m["audio"].update(sample_rate=0), "audio.sample_rate"),
        (AUDIO, lambda m: m.pop("latent"), "needs a latent space"),
        (CAPTIONED, lambda m: m.pop("text_input"), "text_input is required"),
        (CAPTIONED, lambda m: m["graphs"]["generator"].update(inputs=["z"]), "takes text"),
        (TEXT_MODEL, lambda m: m["text"].update(end=99), "must be less than"),
        (TEXT_MODEL, lambda m: m.update(classes=["a"]), "not allowed for the task text"),
        (TEXT_MODEL, lambda m: m["graphs"]["step"].update(inputs=["token"]), "must take state"),
        (TEXT_MODEL, lambda m: m["text"]["vocabulary"].update(file="../x"), "vocabulary.file"),
        (ENCODER, lambda m: m.update(golden=[{"seed": 0, "sha256": "0" * 64}]), "golden"),
        (
            ENCODER,
            lambda m: m.update(graphs={"generator": m["graphs"]["text_encoder"]}),
            "needs a graph 'text_encoder'",
        ),
    ],
)
def test_invalid_manifest_is_refused(models, name, change, message):
    folder = models / name / "1"
    edit(folder, change)
    with pytest.raises(ManifestError) as error:
        read_manifest(folder)
    assert message in str(error.value)


def test_image_spec_of_another_output_is_refused(models):
    manifest = read_manifest(models / AUDIO / "1")
    with pytest.raises(ValueError, match="beeps returns no images, but samples"):
        manifest.image_spec  # noqa: B018
    assert Manifest.model_validate_json(manifest.to_json()) == manifest
