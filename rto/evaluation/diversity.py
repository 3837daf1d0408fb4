"""Metrics of how much the responses of one policy differ from each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

Ngram = tuple[str, ...]


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words over all n-grams, of all texts together (Li et al. 2016).

    It falls with the amount of text: compare policies on the same prompts and at similar lengths.

    Raises:
        ValueError: no text has n words.
    """
    counts = Counter(gram for text in texts for gram in ngrams(text.split(), n))
    if not counts:
        raise ValueError(f"no response has {n} words")
    return len(counts) / counts.total()


def ngrams(words: Sequence[str], n: int) -> Iterator[Ngram]:
    """All runs of n words, in order."""
    return zip(*(words[start:] for start in range(n)), strict=False)
