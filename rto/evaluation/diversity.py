"""Metrics of how much the responses of one policy differ from each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

Ngram = tuple[str, ...]
ORDER = 4
"""Longest n-gram of BLEU."""


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words over all n-grams, of all texts together (Li et al. 2016).

    It falls with the amount of text: compare policies on the same prompts and at similar lengths.

    Raises:
        ValueError: no text has n words.
    """
    counts = Counter(gram for text in texts for gram in _ngrams(text.split(), n))
    if not counts:
        raise ValueError(f"no response has {n} words")
    return len(counts) / counts.total()


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
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    words = [Tokenizer13a()(text).split() for text in texts]
    counts = [[Counter(_ngrams(each, n)) for n in range(1, ORDER + 1)] for each in words]
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


def _ngrams(words: Sequence[str], n: int) -> Iterator[Ngram]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _two_highest(counts: Sequence[Counter[Ngram]]) -> dict[Ngram, tuple[int, int]]:
    """The highest and second highest count of each n-gram in one text."""
    found: dict[Ngram, tuple[int, int]] = {}
    for each in counts:
        for gram, count in each.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (count, first) if count > first else (first, max(second, count))
    return found


def _elsewhere(highest: tuple[int, int], own: int) -> int:
    """The highest count in the other texts."""
    first, second = highest
    return second if own == first else first
