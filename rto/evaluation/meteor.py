"""METEOR, by the package nltk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import nltk
import numpy as np
from nltk.corpus import wordnet
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.tokenize import word_tokenize
from nltk.translate.meteor_score import single_meteor_score

from rto.evaluation.measured import Measured, Texts, Unavailable, mean


class Thesaurus(Protocol):
    """Knows the sets of synonyms that a word is in."""

    def synsets(self, word: str, /) -> Sequence[object]: ...


def meteor(texts: Texts) -> Measured:
    """Mean METEOR with NLTK's parameters and words, as ``evaluate`` has it."""
    responses, references = texts.referenced()
    try:
        nltk.data.find("tokenizers/punkt_tab")
        wordnet.ensure_loaded()
    except LookupError as error:
        raise Unavailable(
            "METEOR needs NLTK's data, which is not here: run `python -m nltk.downloader wordnet "
            "punkt_tab` where there is a network"
        ) from error
    return mean(meteor_scores(responses, references, words=word_tokenize, wordnet=wordnet))


def meteor_scores(
    responses: Sequence[str],
    references: Sequence[str],
    *,
    words: Callable[[str], list[str]],
    wordnet: Thesaurus,
) -> np.ndarray:
    """METEOR of each response [N]: matches of words, of stems, then of WordNet's synonyms."""
    # All that NLTK asks of a WordNet here.
    reader = cast(WordNetCorpusReader, wordnet)
    pairs = zip(responses, references, strict=True)
    return np.array(
        [single_meteor_score(words(ref), words(out), wordnet=reader) for out, ref in pairs]
    )
