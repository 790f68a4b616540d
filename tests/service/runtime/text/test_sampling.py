import numpy as np
import pytest

from service.runtime.generation import execute, text_plan
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for
from service.runtime.text.sampling import TextSource, sample_token
from service.runtime.text.vocabulary import read_vocabulary
from tests.support.output_models import MAX_LENGTH, write_text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "babble" / "1"
    write_text(folder)
    return Model(folder, Provider.CPU, plan_for(Provider.CPU))


def texts(model, *sources):
    return execute(text_plan(model.manifest, sources), model.run)


def by_the_rule(model, seed, temperature=1.0, prefix=()):
    """The rule in its simplest form: one text, token by token."""
    spec = model.manifest.text
    draws = np.random.RandomState(seed).random_sample(MAX_LENGTH)
    state = np.zeros((1, spec.state), np.float32)
    tokens = list(prefix)
    for token in (spec.start, *prefix[:-1]) if prefix else ():
        feeds = {"token": np.array([token]), "state": state}
        state = model.run("step", feeds)["new_state"]
    token = prefix[-1] if prefix else spec.start
    for draw in draws:
        outputs = model.run("step", {"token": np.array([token]), "state": state})
        state = outputs["new_state"]
        exponents = np.exp(outputs["logits"][0].astype(np.float64) / temperature)
        cumulative = np.cumsum(exponents / exponents.sum())
        token = int(np.argmax(cumulative > draw))
        if token == spec.end:
            break
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_texts_follow_the_rule(model, temperature):
    sources = [TextSource(seed, MAX_LENGTH, temperature) for seed in range(6)]
    assert texts(model, *sources) == [by_the_rule(model, seed, temperature) for seed in range(6)]


def test_text_does_not_depend_on_the_other_texts_of_the_batch(model):
    sources = [
        TextSource(3, MAX_LENGTH),
        TextSource(4, 2, 0.7, (5, 6, 7)),
        TextSource(5, MAX_LENGTH, 0.0),
    ]
    together = texts(model, *sources)
    assert together == [texts(model, each)[0] for each in sources]


def test_prefix_is_fed_and_takes_no_draws(model):
    prefix = (4, 5, 6)
    (tokens,) = texts(model, TextSource(9, MAX_LENGTH, 1.0, prefix))
    assert tokens[:3] == list(prefix)
    assert tokens == by_the_rule(model, 9, prefix=prefix)


def test_shorter_text_is_the_beginning_of_the_longer_one(model):
    (long,) = texts(model, TextSource(11, MAX_LENGTH))
    assert len(long) > 3
    assert texts(model, TextSource(11, 3)) == [long[:3]]
    assert texts(model, TextSource(11, 0)) == [[]]


def test_tokens_are_observed_as_they_are_drawn(model):
    seen = []
    plan = text_plan(
        model.manifest,
        [TextSource(1, 4, 1.0, (3,)), TextSource(2, 4)],
        lambda i, token: seen.append((i, token)),
    )
    first, second = execute(plan, model.run)
    assert [token for i, token in seen if i == 0] == [*first[1:], None]
    assert [token for i, token in seen if i == 1] == [*second, None]


def test_temperature_zero_is_the_most_probable_token():
    assert sample_token(np.array([0, 3, 2], np.float32), 0, 0.999) == 1


def test_extreme_logits_and_draws():
    logits = np.array([1e4, -1e4, 0], np.float32)
    assert sample_token(logits, 0.01, 0.999999) == 0
    assert sample_token(np.zeros(3, np.float32), 1, 1 - 1e-17) == 2


def test_text_leaves_out_start_and_end(model):
    vocabulary = read_vocabulary(model.folder, model.manifest.text)
    assert vocabulary.text([0, 2, 3, 10, 1]) == "ab "


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [5e-324, 1e-308])
def test_temperature_near_0_takes_the_most_likely_token(temperature):
    logits = np.array([-30, 2, 30, 1], np.float32)
    assert sample_token(logits, temperature, 0.999) == 2
