"""Text metrics against their definitions, written naively, and against the libraries' own."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_texts import MODELS, REFERENCES, RESPONSES, TEXTS, value
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
)

from rto.evaluation.measured import MetricModels, Texts, Unavailable
from rto.evaluation.meteor import meteor_scores
from rto.evaluation.metrics import METRICS


def longest_common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest_common(a[:-1], b[:-1])
    return max(longest_common(a[:-1], b), longest_common(a, b[:-1]))


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence() -> None:
    expected: list[float] = []
    for out, ref in zip(RESPONSES, REFERENCES, strict=True):
        common = longest_common(out.split(), ref.split())
        p, r = common / len(out.split()), common / len(ref.split())
        expected.append(2 * p * r / (p + r) if common else 0.0)
    found = METRICS["rougeL"](TEXTS, MODELS)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.num == 3
    assert found.ci95 is not None
    assert found.ci95[0] < found.value < found.ci95[1]


def naive_bleu(responses: list[str], references: list[str]) -> float:
    """Papineni et al. 2002 over the corpus, one reference each, no smoothing."""
    logs = 0.0
    for n in range(1, 5):
        correct = total = 0
        for out, ref in zip(responses, references, strict=True):
            mine, theirs = (
                Counter(tuple(w[i : i + n]) for i in range(len(w) - n + 1))
                for w in (out.split(), ref.split())
            )
            correct += sum((mine & theirs).values())
            total += sum(mine.values())
        if correct == 0:
            return 0.0
        logs += math.log(correct / total) / 4
    length, wanted = (sum(len(t.split()) for t in each) for each in (responses, references))
    return math.exp(logs) * min(1.0, math.exp(1 - wanted / length))


def test_bleu_is_the_papers_and_sacrebleu_is_the_tools() -> None:
    assert value("bleu") == pytest.approx(naive_bleu(RESPONSES, REFERENCES))
    assert 0.1 < value("bleu") < 0.9
    assert value("sacrebleu") == pytest.approx(100 * value("bleu"))
    # No common 4-gram: the authors' figure is 0, sacrebleu's smoothed one is not.
    apart = Texts(["the cat sat down here"], ["the cat is on it"])
    assert (
        value("bleu", apart) == 0 == naive_bleu(*map(list, (apart.responses, ["the cat is on it"])))
    )
    assert value("sacrebleu", apart) > 0
    # Brevity: half of the reference.
    short = Texts(["a b c d e"], ["a b c d e f g h i j"])
    assert value("bleu", short) == pytest.approx(math.exp(1 - 2))


def test_length_ratio_counts_an_empty_reference_as_one_word() -> None:
    texts = Texts(["a b c", "a", ""], ["a b", "", "a b"])
    assert value("length_ratio", texts) == pytest.approx((3 / 2 + 1 / 1 + 0 / 2) / 3)
    assert value("words", texts) == pytest.approx((3 + 1 + 0) / 3)


def test_only_prompts_with_a_reference_count() -> None:
    found = METRICS["rougeL"](Texts(["a", "b"], ["a", None]), MODELS)
    assert (found.value, found.num) == (1.0, 1)
    with pytest.raises(Unavailable, match="the prompts have no references"):
        value("bleu", Texts(["a"], [None]))


class NoSynonyms:
    def synsets(self, word: str) -> list[object]:
        return []


def test_meteor_from_matches_and_chunks() -> None:
    """3 of 4 words match in 2 chunks; Fmean = 10PR / (R + 9P), penalty 0.5 (chunks/matches)^3."""
    (found,) = meteor_scores(["a b x d"], ["a b c d"], words=str.split, wordnet=NoSynonyms())
    p = r = 3 / 4
    assert found == pytest.approx(10 * p * r / (r + 9 * p) * (1 - 0.5 * (2 / 3) ** 3))


def test_meteor_says_which_data_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(Unavailable, match="nltk.downloader wordnet punkt_tab"):
        value("meteor")


def test_the_stand_in_for_toxicity_is_named_as_such() -> None:
    found = METRICS["toxicity"](Texts(["you are a stupid shit", "good day"], [None] * 2), MODELS)
    assert "alt-profanity-check" in found.source
    assert "offline stand-in" in found.source
    assert 0.4 < found.value < 0.6


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "ran", "yes", "no"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT, its tokenizer, and a classifier beside it."""
    root = tmp_path_factory.mktemp("metric_models")
    (root / "vocab.txt").write_text("\n".join(VOCABULARY))
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, id2label={0: "nothate", 1: "hate"},
    )  # fmt: skip
    torch.manual_seed(0)
    for name, kind in (("encoder", BertModel), ("classifier", BertForSequenceClassification)):
        kind(config).eval().save_pretrained(root / name)
        BertTokenizer(str(root / "vocab.txt"), model_max_length=32).save_pretrained(root / name)
    return root


def test_bertscore_matches_each_token_with_its_nearest(bert: Path) -> None:
    """F1 by the definition: greedy matching of cosine similarities. Special tokens weigh nothing,
    but others may match them."""
    outs, refs = ["the cat ran", "no"], ["the dog ran", "yes yes"]
    models = MetricModels(bertscore=str(bert / "encoder"))
    found = METRICS["bertscore_f1"](Texts(outs, refs), models)
    tokenizer = BertTokenizer.from_pretrained(bert / "encoder")
    model = BertModel.from_pretrained(bert / "encoder").eval()
    expected: list[float] = []
    for out, ref in zip(outs, refs, strict=True):
        with torch.no_grad():
            a, b = (
                torch.nn.functional.normalize(
                    model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0], dim=-1
                )
                for text in (out, ref)
            )
        similar = a @ b.T
        p, r = (float(similar.max(axis).values[1:-1].mean()) for axis in (1, 0))
        expected.append(2 * p * r / (p + r))
    assert found.value == pytest.approx(np.mean(expected), abs=1e-5)
    assert found.source.endswith("encoder, layer 2")


def test_a_classifier_is_read_by_its_label(bert: Path) -> None:
    path = str(bert / "classifier")
    texts = Texts(["the cat", "yes no dog"], [None, None])
    hate = METRICS["toxicity"](texts, MetricModels(toxicity=path))
    other = METRICS["toxicity"](texts, MetricModels(toxicity=path, toxicity_label="nothate"))
    assert hate.value + other.value == pytest.approx(1.0, abs=1e-5)
    assert hate.source == f"{path}, label hate"
    with pytest.raises(Unavailable, match="no label 'toxic': name one of nothate, hate"):
        METRICS["toxicity"](texts, MetricModels(toxicity=path, toxicity_label="toxic"))


@pytest.mark.parametrize("name", ["bertscore_f1", "toxicity"])
def test_a_model_that_cannot_be_had_is_said(tmp_path: Path, name: str) -> None:
    models = MetricModels(bertscore=str(tmp_path), toxicity=str(tmp_path))
    with pytest.raises(Unavailable, match="cannot be had"):
        METRICS[name](TEXTS, models)
