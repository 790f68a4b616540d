"""BLEU against a set of references."""

import math

import pytest
from sacrebleu.metrics import BLEU

from training.evaluation.text.bleu import ReferenceSet

REFERENCES = ["the red cat sat down", "a blue dog", "the old cat saw a blue dog today"]


@pytest.mark.parametrize("order", [2, 4])
def test_scores_are_those_of_sacrebleu(order):
    texts = ["the red dog sat", "blue", "a blue dog", "some other words here now"]
    public = BLEU(max_ngram_order=order, tokenize="none", effective_order=True)
    expected = [public.sentence_score(text, REFERENCES).score / 100 for text in texts]
    scores = ReferenceSet(REFERENCES, "word", order)
    for text, value in zip(texts, expected, strict=True):
        assert math.isclose(scores.score([text]), value, abs_tol=1e-12)
    assert math.isclose(scores.score(texts), sum(expected) / 4, abs_tol=1e-12)


def test_characters_count_spaces():
    scores = ReferenceSet(["ab cd"], "character", 4)
    assert math.isclose(scores.score(["ab cd"]), 1)
    assert scores.score(["abcd"]) < scores.score(["ab cd"])


def test_empty_text_scores_zero():
    assert ReferenceSet(REFERENCES, "word", 4).score([""]) == 0
