"""BERTScore, by the package bert_score."""

from __future__ import annotations

from typing import cast

from bert_score import BERTScorer
from bert_score.utils import model2layers
from torch import Tensor

from rto.errors import UserError
from rto.evaluation.measured import Measured, MetricModels, Texts, Unavailable, first_line, mean
from rto.models.load import load_config


def bertscore_f1(texts: Texts, models: MetricModels) -> Measured:
    """Mean F1 of BERTScore without idf or rescaling; the authors' model is roberta-large."""
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
    _, _, f1 = cast("tuple[Tensor, Tensor, Tensor]", scorer.score(responses, references))
    return mean(f1.double().numpy(), source=f"{name}, layer {layers}")


def _num_layers(name: str) -> int:
    return int(load_config(name).num_hidden_layers)
