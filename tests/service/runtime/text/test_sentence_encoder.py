from pathlib import Path

import numpy as np
import pytest

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from service.runtime.text.sentence_encoder import TextEncoderError, open_sentence_encoder
from tests.support.output_models import write_text_to_image

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "models" / "wordllama" / "1"


@pytest.fixture(scope="module")
def encoder():
    return open_sentence_encoder(FOLDER)


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_folder_is_a_valid_model():
    model = Model(FOLDER, Provider.CPU, ExecutionPlan(1, 1, 8))
    assert model.generate(range(3)).shape == (3, 256)


def test_similar_texts_have_similar_embeddings(encoder):
    cat, kitten, pizza = encoder.encode(["cat", "kitten", "slice of pizza"]).vectors
    assert cosine(cat, kitten) > cosine(cat, pizza) + 0.1


def test_embedding_does_not_depend_on_other_texts(encoder):
    texts = ["red heart", "a very long description of a sailing boat on the sea", ""]
    together = encoder.encode(texts).vectors
    alone = np.concatenate([encoder.encode([text]).vectors for text in texts])
    assert np.array_equal(together, alone)


def test_padding_takes_no_part(encoder):
    model = Model(FOLDER, Provider.CPU, ExecutionPlan(1, 1, 8))
    ids, mask = np.array([[5, 9, 0, 0]], np.int64), np.array([[1, 1, 0, 0]], np.float32)
    padded = model.run("text_encoder", {"token_ids": ids, "token_mask": mask})["text"]
    short = model.run("text_encoder", {"token_ids": ids[:, :2], "token_mask": mask[:, :2]})["text"]
    assert np.array_equal(padded, short)


@pytest.mark.parametrize("text", ["", "日本の城", "😀😀", "مرحبا", "\ud800", "\x00"])
def test_every_text_has_a_finite_embedding(encoder, text):
    assert np.isfinite(encoder.encode([text]).vectors).all()


def test_empty_text_is_the_zero_vector(encoder):
    vectors, tokens = encoder.encode([""])
    assert not vectors.any()
    assert tokens == (0,)


def test_long_text_is_truncated(encoder):
    vectors, tokens = encoder.encode(["cat " * 10_000, "cat " * encoder.max_tokens])
    assert tokens[0] > encoder.max_tokens
    assert cosine(*vectors) > 0.999


def test_a_folder_of_another_task_is_refused(tmp_path):
    write_text_to_image(tmp_path / "letters" / "1", f"sha256:{'0' * 64}")
    with pytest.raises(TextEncoderError, match="its task is text-to-image"):
        open_sentence_encoder(tmp_path / "letters" / "1")
