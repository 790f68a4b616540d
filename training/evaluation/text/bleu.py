"""BLEU against a set of references, as papers about text GANs measure it.

Every text is compared with all references together, and the scores of the texts are averaged (Yu et
al. 2017, arXiv:1609.05473; Zhu et al. 2018, arXiv:1802.01886). N-grams, brevity penalty and
smoothing are those of sacreBLEU (Post 2018, arXiv:1804.08771).
"""

from __future__ import annotations

from collections.abc import Sequence

from training.data.text.vocabulary import Unit, split

# Stands for the space, because sacreBLEU separates n-grams at spaces.
_SPACE = "▁"


class ReferenceSet:
    """A set of references. Their n-grams are counted once, for all texts."""

    def __init__(self, references: Sequence[str], unit: Unit, order: int) -> None:
        """Compare n-grams of up to `order` units with those of `references`."""
        from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - the extra `quality`

        # Texts that are shorter than `order` are scored by the n-grams that they have.
        self._bleu = BLEU(max_ngram_order=order, tokenize="none", effective_order=True)
        self._unit = unit
        # The public methods would count the n-grams of all references again for every text.
        self._references = self._bleu._extract_reference_info([self._units(r) for r in references])

    def score(self, texts: Sequence[str]) -> float:
        """Return the mean BLEU of texts, from 0 to 1. An empty text scores 0."""
        return sum(self._score(text) for text in texts) / len(texts)

    def _score(self, text: str) -> float:
        if not text:
            return 0.0
        statistics = self._bleu._compute_segment_statistics(self._units(text), self._references)
        return float(self._bleu._aggregate_and_compute([statistics]).score) / 100

    def _units(self, text: str) -> str:
        return " ".join(_SPACE if each == " " else each for each in split(text, self._unit))
