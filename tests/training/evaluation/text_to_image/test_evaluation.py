"""The figures of text-to-image models, with a model that draws captions and one that does not."""

import json

import numpy as np
import pytest
from PIL import Image

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from service.runtime.text.sentence_encoder import open_sentence_encoder
from tests.support.drawn_models import CHARACTERS
from tests.support.output_models import CAPTIONED, ENCODER, write_output_models
from training.captions.encoders import NamedEncoder
from training.captions.reading import CaptionOptions
from training.data.images import DataOptions
from training.evaluation.errors import QualityError
from training.evaluation.text_to_image.evaluation import (
    evaluate_text_to_image,
    open_real_pairs,
    r_precision,
)
from training.evaluation.text_to_image.matching import MatchingSettings
from training.games.text_to_image.exporting import generate_from_texts

PROMPTS = 40
SETTINGS = MatchingSettings(width=32, steps=150, batch=100)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """The model and its encoder."""
    models = tmp_path_factory.mktemp("models")
    write_output_models(models)
    folder = models / ENCODER / "1"
    encoder = NamedEncoder(read_manifest(folder), open_sentence_encoder(folder))
    return Model(models / CAPTIONED / "1", Provider.CPU, ExecutionPlan(1, 1, 16)), encoder


def write_pairs(folder, model, encoder, shuffle):
    """Write images that the model draws of captions: of their own, or of those of others."""
    rng = np.random.default_rng(0)
    lines = []
    for split, count in {"train": 400, "test": PROMPTS}.items():
        (folder / split).mkdir(parents=True)
        texts = ["".join(rng.choice(list(CHARACTERS), 5)) for _ in range(count)]
        vectors = encoder.embed(texts)
        if shuffle:
            vectors = rng.permutation(vectors)
        for i, image in enumerate(generate_from_texts(model, vectors, range(1000, 1000 + count))):
            Image.fromarray(image).save(folder / split / f"{split}{i}.png")
            lines.append({"file_name": f"{split}{i}.png", "text": texts[i]})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return DataOptions(path=str(folder), resolution=model.manifest.image_spec.height)


def figures_of(data, model, encoder, network, samples=200):
    _, pairs = open_real_pairs(data, CaptionOptions())
    figures = evaluate_text_to_image(
        model, encoder, pairs, network, samples=samples, seed_start=5, settings=SETTINGS
    )
    return {figure.metric: figure for figure in figures}


@pytest.fixture(scope="module")
def own(captioned, tmp_path_factory):
    """Images that the model draws of their captions."""
    return write_pairs(tmp_path_factory.mktemp("own"), *captioned, shuffle=False)


@pytest.fixture(scope="module")
def good(own, captioned, small_network):
    return figures_of(own, *captioned, small_network)


def test_images_of_prompts_are_recognized(good):
    figure = good["R-precision"]
    assert figure.real > 0.3
    assert figure.value == pytest.approx(figure.real, abs=0.2)
    assert figure.low < figure.value < figure.high
    # One in 40 by chance.
    assert figure.baseline < 0.1
    assert figure.note.startswith(f"the right one of {PROMPTS} held-out prompts; chance is 2.5%")
    assert (figure.samples, figure.real_samples, figure.seed_start) == (200, PROMPTS, 5)


def test_real_images_of_other_captions_lower_the_precision_to_chance(
    captioned, tmp_path, small_network
):
    data = write_pairs(tmp_path, *captioned, shuffle=True)
    figure = figures_of(data, *captioned, small_network)["R-precision"]
    assert figure.value < 0.15
    assert figure.real < 0.15


def test_diversity_is_that_of_the_seeds_of_a_prompt(good, own, captioned, small_network):
    figure = good["diversity per prompt"]
    assert 0 < figure.low <= figure.value <= figure.high < 1
    # No caption has several real images.
    assert figure.real is None
    assert figure.real_samples is None
    single = figures_of(own, *captioned, small_network, samples=PROMPTS)
    assert "diversity per prompt" not in single


def test_kernel_distance_compares_with_held_out_images(good):
    figure = good["KID-averages"]
    assert figure.low < figure.value < figure.high
    assert figure.reference_samples == PROMPTS
    assert figure.real_samples == 200


def test_precision_is_the_share_of_choices_without_a_better_prompt():
    own = np.zeros(1, np.int64)

    def precision(others, better):
        scores = np.concatenate([[0.5], np.ones(better), np.zeros(others - better)])
        return r_precision(scores[None].astype(np.float32), own)[0]

    assert precision(99, 0) == 1
    assert precision(99, 1) == 0
    # 99 of 198 others: one better prompt is left out with probability 1/2, two with 99·98/198·197.
    assert precision(198, 1) == pytest.approx(1 / 2)
    assert precision(198, 2) == pytest.approx(99 * 98 / (198 * 197))
    assert precision(5, 0) == 1
    assert precision(5, 1) == 0


def test_equal_scores_are_no_match():
    scores = np.zeros((3, 10), np.float32)
    assert r_precision(scores, np.arange(3)).tolist() == [0, 0, 0]


def test_random_scores_have_the_precision_of_chance():
    rng = np.random.default_rng(0)
    scores = rng.random((4000, 150), np.float32)
    assert r_precision(scores, rng.integers(0, 150, 4000)).mean() == pytest.approx(0.01, abs=0.004)


def test_data_without_held_out_captions_are_refused(own):
    only = own.model_copy(update={"path": f"{own.path}/train"})
    with pytest.raises(QualityError, match="no held-out captions"):
        open_real_pairs(only, CaptionOptions())
