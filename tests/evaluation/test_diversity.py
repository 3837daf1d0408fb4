"""How different responses are: by hand, and by the tools that others use."""

from __future__ import annotations

import numpy as np
import pytest
from metric_texts import value
from sacrebleu.metrics.bleu import BLEU

from rto.evaluation.bleu import self_bleu
from rto.evaluation.diversity import distinct
from rto.evaluation.metrics import Texts, Unavailable


def test_distinct() -> None:
    assert distinct(["a b a", "b c"], 1) == 3 / 5
    assert distinct(["a b a", "a b"], 2) == 2 / 3
    with pytest.raises(Unavailable, match="no response has 2 words"):
        value("distinct_2", Texts(["a", ""], [None, None]))


def test_self_bleu_is_sacrebleus_sentence_score_against_the_others() -> None:
    texts = [
        "the cat sat on the mat and the cat slept",
        "the cat sat on the mat",
        "the cat sat on a chair, the cat slept there",
        "something else entirely!",
        "the cat sat on the mat",
    ]
    tool = BLEU(effective_order=True)
    expected = [
        tool.sentence_score(text, texts[:i] + texts[i + 1 :]).score / 100
        for i, text in enumerate(texts)
    ]
    assert self_bleu(texts) == pytest.approx(np.array(expected))
    assert self_bleu(texts)[1] == pytest.approx(1.0)
    with pytest.raises(Unavailable, match="no others"):
        value("self_bleu", Texts(["a"], [None]))
