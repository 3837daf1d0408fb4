"""BLEU against references and against a policy's other responses, by the package sacrebleu."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from rto.evaluation.diversity import Ngram, ngrams
from rto.evaluation.measured import Measured, MetricModels, TextMetric, Texts, Unavailable

ORDER = 4
"""Longest n-gram of BLEU."""


def bleu(texts: Texts, models: MetricModels) -> Measured:
    """Corpus BLEU-4, 0 to 1, unsmoothed: what the RPO authors call BLEU (``evaluate``'s ``bleu``).

    0 as soon as no 4-gram matches anywhere.
    """
    responses, references = texts.referenced()
    return Measured(_corpus_bleu(responses, references, "none") / 100, len(responses))


def sacrebleu(texts: Texts, models: MetricModels) -> Measured:
    """Corpus BLEU-4, 0 to 100, with sacrebleu's defaults: 13a words, exponential smoothing."""
    responses, references = texts.referenced()
    return Measured(_corpus_bleu(responses, references, "exp"), len(responses))


def self_bleu_4(texts: Texts, models: MetricModels) -> Measured:
    """Mean self-BLEU; without an interval, because every value depends on all responses."""
    try:
        return Measured(float(self_bleu(texts.responses).mean()), len(texts.responses))
    except ValueError as error:
        raise Unavailable(str(error)) from error


BY_SACREBLEU: Mapping[str, TextMetric] = {
    "bleu": bleu,
    "sacrebleu": sacrebleu,
    "self_bleu": self_bleu_4,
}


def _corpus_bleu(responses: Sequence[str], references: Sequence[str], smoothing: str) -> float:
    return BLEU(smooth_method=smoothing).corpus_score(responses, [references]).score


def self_bleu(texts: Sequence[str]) -> np.ndarray:
    """BLEU-4 (0 to 1) of each text [N] against all the others as references (Zhu et al. 2018).

    sacrebleu's 13a words, exponential smoothing, orders that a text is too short for left out. The
    clipping count of an n-gram is its highest count in another text: the highest of all, or the
    second highest where the text itself has that one, so all N take one pass.

    Raises:
        ValueError: fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError("one response has no others to resemble")
    words = [Tokenizer13a()(text).split() for text in texts]
    counts = [[Counter(ngrams(each, n)) for n in range(1, ORDER + 1)] for each in words]
    lengths = [len(each) for each in words]
    highest = [_two_highest([each[n] for each in counts]) for n in range(ORDER)]
    scores: list[float] = []
    for i, mine in enumerate(counts):
        correct = [
            sum(min(count, _elsewhere(highest[n][gram], count)) for gram, count in mine[n].items())
            for n in range(ORDER)
        ]
        closest = min(
            (length for j, length in enumerate(lengths) if j != i),
            key=lambda length: (abs(length - lengths[i]), length),
        )
        score = BLEU.compute_bleu(
            correct,
            [grams.total() for grams in mine],
            lengths[i],
            closest,
            smooth_method="exp",
            effective_order=True,
        )
        scores.append(score.score / 100)
    return np.array(scores)


def _two_highest(counts: Sequence[Counter[Ngram]]) -> dict[Ngram, tuple[int, int]]:
    """The highest and second highest count of each n-gram in one text."""
    best_two: dict[Ngram, tuple[int, int]] = {}
    for each in counts:
        for gram, count in each.items():
            first, second = best_two.get(gram, (0, 0))
            best_two[gram] = (count, first) if count > first else (first, max(second, count))
    return best_two


def _elsewhere(highest: tuple[int, int], own: int) -> int:
    """The highest count in the other texts."""
    first, second = highest
    return second if own == first else first
