"""Text metrics of responses: those of the RPO authors' evaluation, and diversity.

The packages behind some come with `rto-rlhf[eval]`, and take seconds to import: a metric imports
its own when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np

from rto.evaluation.diversity import distinct
from rto.evaluation.measured import Measured, MetricModels, TextMetric, Texts, Unavailable, mean


def rouge_l(texts: Texts, models: MetricModels) -> Measured:
    """Mean F-measure of ROUGE-L without stemming, as ``evaluate`` has it."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = zip(*texts.referenced(), strict=True)
    return mean(np.array([scorer.score(ref, out)["rougeL"].fmeasure for out, ref in pairs]))


def by_sacrebleu(name: str) -> TextMetric:
    """The metric of this name in ``rto.evaluation.bleu``."""

    def metric(texts: Texts, models: MetricModels) -> Measured:
        from rto.evaluation.bleu import BY_SACREBLEU

        return BY_SACREBLEU[name](texts, models)

    return metric


def meteor(texts: Texts, models: MetricModels) -> Measured:
    """Mean METEOR with NLTK's parameters and words, as ``evaluate`` has it."""
    from rto.evaluation.meteor import meteor

    return meteor(texts)


def bertscore_f1(texts: Texts, models: MetricModels) -> Measured:
    """Mean F1 of BERTScore without idf or rescaling; the authors' model is roberta-large."""
    from rto.evaluation.bertscore import bertscore_f1

    return bertscore_f1(texts, models)


def toxicity(texts: Texts, models: MetricModels) -> Measured:
    """Mean probability of toxicity by a classifier's label, or else by a small offline classifier.

    The authors' classifier is facebook/roberta-hate-speech-dynabench-r4-target, label ``hate``.
    """
    if models.toxicity is None:
        from profanity_check import predict_prob

        source = f"alt-profanity-check {version('alt-profanity-check')}, offline stand-in"
        return mean(np.asarray(predict_prob(list(texts.responses))), source=source)
    from rto.evaluation.classifier import probability

    return probability(texts, models.toxicity, models.toxicity_label)


def length_ratio(texts: Texts, models: MetricModels) -> Measured:
    """Mean over prompts of words in the response / words in the reference (at least 1)."""
    pairs = zip(*texts.referenced(), strict=True)
    return mean(np.array([len(out.split()) / max(1, len(ref.split())) for out, ref in pairs]))


def num_words(texts: Texts, models: MetricModels) -> Measured:
    """Mean number of words."""
    return mean(np.array([float(len(text.split())) for text in texts.responses]))


def distinct_1(texts: Texts, models: MetricModels) -> Measured:
    return _distinct(texts, 1)


def distinct_2(texts: Texts, models: MetricModels) -> Measured:
    return _distinct(texts, 2)


METRICS: Mapping[str, TextMetric] = {
    "bertscore_f1": bertscore_f1,
    "rougeL": rouge_l,
    "bleu": by_sacrebleu("bleu"),
    "sacrebleu": by_sacrebleu("sacrebleu"),
    "meteor": meteor,
    "toxicity": toxicity,
    "length_ratio": length_ratio,
    "words": num_words,
    "distinct_1": distinct_1,
    "distinct_2": distinct_2,
    "self_bleu": by_sacrebleu("self_bleu"),
}


def _distinct(texts: Texts, n: int) -> Measured:
    try:
        return Measured(distinct(texts.responses, n), len(texts.responses))
    except ValueError as error:
        raise Unavailable(str(error)) from error
