"""Text metrics of responses: those of the RPO authors' evaluation, and diversity.

Each takes the responses and their references in the order of the prompts. One that cannot be
computed says why (``Unavailable``); no figure is made up in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

import numpy as np

from rto.errors import UserError
from rto.evaluation.diversity import distinct, self_bleu
from rto.evaluation.statistics import bootstrap


class Unavailable(UserError):
    """A metric cannot be had: what is missing and how to get it."""


@dataclass(frozen=True)
class Measured:
    """A metric over ``num`` responses; ``ci95`` where it is a mean over prompts.

    ``source`` names the model behind it, where one is.
    """

    value: float
    num: int
    ci95: tuple[float, float] | None = None
    source: str = ""


@dataclass(frozen=True)
class MetricModels:
    """The models that metrics load: hub ids or directories."""

    bertscore: str = "roberta-large"
    bertscore_layers: int | None = None
    toxicity: str | None = None
    toxicity_label: str = "hate"


@dataclass(frozen=True)
class Texts:
    """Responses, and a reference for each or None."""

    responses: Sequence[str]
    references: Sequence[str | None]

    def referenced(self) -> tuple[list[str], list[str]]:
        """The responses that have a reference, and those references.

        Raises:
            Unavailable: none has one.
        """
        pairs = [
            (response, reference)
            for response, reference in zip(self.responses, self.references, strict=True)
            if reference is not None
        ]
        if not pairs:
            raise Unavailable("the prompts have no references: name their column, --reference_key")
        responses, references = zip(*pairs, strict=True)
        return list(responses), list(references)


def mean(values: np.ndarray, *, source: str = "") -> Measured:
    """A mean over prompts with its 95% bootstrap interval."""
    found = bootstrap(values)
    return Measured(found.mean, len(values), found.ci95, source)


def rouge_l(texts: Texts, models: MetricModels) -> Measured:
    """Mean F-measure of ROUGE-L without stemming, as ``evaluate`` has it."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = zip(*texts.referenced(), strict=True)
    return mean(np.array([scorer.score(ref, out)["rougeL"].fmeasure for out, ref in pairs]))


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


def meteor(texts: Texts, models: MetricModels) -> Measured:
    """Mean METEOR with NLTK's parameters and words, as ``evaluate`` has it."""
    import nltk
    from nltk.corpus import wordnet
    from nltk.tokenize import word_tokenize

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
    wordnet: Any,
) -> np.ndarray:
    """METEOR of each response [N]: matches of words, of stems, then of WordNet's synonyms."""
    from nltk.translate.meteor_score import single_meteor_score

    pairs = zip(responses, references, strict=True)
    return np.array(
        [single_meteor_score(words(ref), words(out), wordnet=wordnet) for out, ref in pairs]
    )


def bertscore_f1(texts: Texts, models: MetricModels) -> Measured:
    """Mean F1 of BERTScore without idf or rescaling; the authors' model is roberta-large."""
    from bert_score import BERTScorer
    from bert_score.utils import model2layers

    responses, references = texts.referenced()
    name = models.bertscore
    try:
        layers = models.bertscore_layers or model2layers.get(name) or _num_layers(name)
        scorer = BERTScorer(model_type=name, num_layers=layers)
    except (OSError, UserError) as error:
        raise Unavailable(
            f"BERTScore's model {name} cannot be had: {first_line(error)}; give a directory, "
            "--bertscore_model DIR"
        ) from error
    f1 = cast(Any, scorer.score(responses, references))[2]
    return mean(f1.double().numpy(), source=f"{name}, layer {layers}")


def toxicity(texts: Texts, models: MetricModels) -> Measured:
    """Mean probability of toxicity by a classifier's label, or else by a small offline classifier.

    The authors' classifier is facebook/roberta-hate-speech-dynabench-r4-target, label ``hate``.
    """
    if models.toxicity is None:
        from profanity_check import predict_prob

        source = f"alt-profanity-check {version('alt-profanity-check')}, offline stand-in"
        return mean(np.asarray(predict_prob(list(texts.responses))), source=source)
    from transformers import pipeline

    try:
        classify = pipeline("text-classification", model=models.toxicity, top_k=None)
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"toxicity model {models.toxicity} cannot be had: {first_line(error)}; give the "
            "directory of a text classifier"
        ) from error
    labels = list(cast(Any, classify.model.config).id2label.values())
    if models.toxicity_label not in labels:
        raise Unavailable(
            f"toxicity model {models.toxicity} has no label {models.toxicity_label!r}: name one of "
            f"{', '.join(labels)} with --toxicity_label"
        )
    found = cast(Any, classify(list(texts.responses), truncation=True, batch_size=16))
    scores = [{each["label"]: each["score"] for each in row} for row in found]
    values = np.array([row[models.toxicity_label] for row in scores])
    return mean(values, source=f"{models.toxicity}, label {models.toxicity_label}")


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


def self_bleu_4(texts: Texts, models: MetricModels) -> Measured:
    """Mean self-BLEU; without an interval, because every value depends on all responses."""
    try:
        return Measured(float(self_bleu(texts.responses).mean()), len(texts.responses))
    except ValueError as error:
        raise Unavailable(str(error)) from error


METRICS: Mapping[str, Callable[[Texts, MetricModels], Measured]] = {
    "bertscore_f1": bertscore_f1,
    "rougeL": rouge_l,
    "bleu": bleu,
    "sacrebleu": sacrebleu,
    "meteor": meteor,
    "toxicity": toxicity,
    "length_ratio": length_ratio,
    "words": num_words,
    "distinct_1": distinct_1,
    "distinct_2": distinct_2,
    "self_bleu": self_bleu_4,
}


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _corpus_bleu(responses: Sequence[str], references: Sequence[str], smoothing: str) -> float:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(smooth_method=smoothing).corpus_score(responses, [references]).score


def _distinct(texts: Texts, n: int) -> Measured:
    try:
        return Measured(distinct(texts.responses, n), len(texts.responses))
    except ValueError as error:
        raise Unavailable(str(error)) from error


def _num_layers(name: str) -> int:
    from rto.models.load import load_config

    return int(load_config(name).num_hidden_layers)
