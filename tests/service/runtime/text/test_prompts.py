import numpy as np
import pytest

from service.runtime.generation import execute, prompt_plan
from service.runtime.models.manifest import ManifestError
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for
from service.runtime.text.prompts import read_tokenizer
from tests.support.output_models import MAX_TOKENS, write_text_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "letters" / "1"
    write_text_encoder(folder)
    return Model(folder, Provider.CPU, plan_for(Provider.CPU))


def tokenized(encoder, *texts):
    return read_tokenizer(encoder.folder, encoder.manifest.text_encoder)(texts)


def vectors(encoder, *texts):
    plan = prompt_plan(tokenized(encoder, *texts), encoder.manifest.text_encoder.dimension)
    return execute(plan, encoder.run)


def test_long_prompt_keeps_its_first_tokens(encoder):
    short, exact, long = tokenized(encoder, "abc", "a" * MAX_TOKENS, "a" * (MAX_TOKENS + 1))
    assert (len(short.tokens), short.length, short.is_truncated) == (3, 3, False)
    assert not exact.is_truncated
    assert (len(long.tokens), long.length, long.is_truncated) == (MAX_TOKENS, MAX_TOKENS + 1, True)


def test_vector_is_the_mean_of_the_rows_of_the_tokens(encoder):
    a, b, both = vectors(encoder, "a", "b", "ab")
    np.testing.assert_allclose(both, (a + b) / 2, atol=1e-6)


def test_empty_prompt_is_the_zero_vector(encoder):
    assert not vectors(encoder, "").any()
    assert not vectors(encoder, "abc", "")[1].any()


def test_vector_does_not_depend_on_the_other_prompts(encoder):
    texts = ["abc", "", "h" * MAX_TOKENS, "defg"]
    alone = [vectors(encoder, each)[0] for each in texts]
    assert np.array_equal(vectors(encoder, *texts), alone)


def test_damaged_tokenizer_is_refused(tmp_path):
    folder = tmp_path / "letters" / "1"
    write_text_encoder(folder)
    spec = Model(folder, Provider.CPU, plan_for(Provider.CPU)).manifest.text_encoder
    (folder / spec.tokenizer.file).write_text("{}")
    with pytest.raises(ManifestError, match="sha256"):
        read_tokenizer(folder, spec)


def test_half_of_a_surrogate_pair_is_a_replacement_character(encoder):
    damaged, replaced = tokenized(encoder, "a\ud800b", "a?b")
    assert damaged.tokens == replaced.tokens
