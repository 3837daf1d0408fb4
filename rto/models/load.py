"""Models and tokenizers from a directory or a hub id."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, Unpack, cast

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils.hub import cached_file

from rto.errors import UserError, foreign
from rto.models.adapters import some, with_adapters
from rto.models.chat_template import chosen_template
from rto.models.config_values import check_values
from rto.models.rope import fix_frequencies
from rto.models.source import check_type, reading, source
from rto.sections.runtime import Lora

if TYPE_CHECKING:
    from peft import PeftModel

DROPOUTS = ("dropout", "pdrop", "dropout_rate", "layerdrop", "jitter_noise")
"""Endings of the names that config.json has for them; the noise of a MoE router is one more."""
SCALE = "scale_decoder_outputs"
"""Whether a T5 scales its decoder's states before its head."""
NEW_HEADS = {"score.weight", "classifier.weight", "classifier.bias"}
RESERVED = "reserved_special_token"
NUMBER = re.compile(r"\d+")


def load_tokenizer(path: str, *, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer, with EoS as padding where it has no padding token of its own.

    ``chat_template`` is the name of one of its templates, or a file that holds one.
    """
    with reading(path):
        tokenizer = AutoTokenizer.from_pretrained(path, **source(path))
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: the tokenizer has no eos_token; set one in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template is not None:
        tokenizer.chat_template = chosen_template(tokenizer, chat_template)
    return tokenizer


def generation_stops(path: str) -> tuple[int, ...]:
    """The tokens that end a response by generation_config.json, or by config.json without one."""
    local = source(path)["local_files_only"]
    with foreign(f"{path}: cannot read generation_config.json", "repair it"):
        file = cached_file(
            path,
            GENERATION_CONFIG_NAME,
            local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
        )
        if file is None:
            ends = load_config(path).to_dict().get("eos_token_id")
        else:
            ends = json.loads(Path(file).read_text(encoding="utf-8")).get("eos_token_id")
    ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(isinstance(end, int) and not isinstance(end, bool) and end >= 0 for end in ids):
        raise UserError(f"{path}: eos_token_id of its generation config is {ends!r}: give ids")
    return tuple(ids)


def load_config(path: str) -> PreTrainedConfig:
    """The model's config with every dropout off: a ratio of two forwards must start at 1."""
    with reading(path):
        written, _ = PreTrainedConfig.get_config_dict(path, **source(path))
    check_type(path, written)
    with reading(path):
        config = AutoConfig.from_pretrained(path, **source(path))
    if SCALE in written:
        # transformers 5 writes it and, reading, puts tie_word_embeddings in its place.
        setattr(config, SCALE, written[SCALE])
    check_values(config, path)
    return without_dropout(config)


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    for name, value in config.to_dict().items():
        if name.endswith(DROPOUTS) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def is_encoder_decoder(path: str) -> bool:
    """Whether the model reads its prompt with an encoder of its own (T5, BART)."""
    return bool(load_config(path).is_encoder_decoder)


class Loading(TypedDict):
    """How a model is loaded. ``max_len``: see ``rto.models.rope.fix_frequencies``; there are peft
    adapters on it when ``lora.rank`` is above 0. A ``device`` gets it at once, so that what is
    tried on it is tried there; 4-bit weights choose their own."""

    dtype: torch.dtype
    attn_implementation: str
    max_len: NotRequired[int | None]
    lora: NotRequired[Lora | None]
    load_in_4bit: NotRequired[bool]
    gradient_checkpointing: NotRequired[bool]
    device: NotRequired[torch.device]


def load_language_model(path: str, **how: Unpack[Loading]) -> PreTrainedModel | PeftModel:
    """A causal or an encoder-decoder LM, as its config says."""
    return _load(language_model(path), **how)


def load_scalar_model(
    path: str, *, new_head: bool, **how: Unpack[Loading]
) -> PreTrainedModel | PeftModel:
    """A sequence classifier with one label and head ``score``.

    ``new_head`` allows a checkpoint without the head (a causal LM) and initialises it; without
    it such a checkpoint is an error, for a random head would pass as a reward model.
    """
    return _load(scalar_model(path, new_head=new_head), **how)


def load_value_model(path: str, **how: Unpack[Loading]) -> PreTrainedModel | PeftModel:
    """The encoder of an encoder-decoder model with a scalar head ``classifier``.

    A new head starts at 0, which is the mean of the rewards that DRO regresses on.
    """
    return _load(value_model(path), **how)


class LoadingInfo(TypedDict):
    """What transformers tells of the weights that it read: names, and shapes where they differ."""

    unexpected_keys: Collection[str]
    missing_keys: Collection[str]
    mismatched_keys: Collection[tuple[str, Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class Wanted:
    """What to read a checkpoint as: a class of transformers, peft's name for its task."""

    path: str
    auto: type[Any]
    config: PreTrainedConfig
    task: str
    new_head: bool = False
    """A head that the weights do not hold is allowed, and new."""


def language_model(path: str) -> Wanted:
    """A policy, a reference, a DPO model."""
    config = load_config(path)
    auto, known, task = (
        (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, "SEQ_2_SEQ_LM")
        if config.is_encoder_decoder
        else (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING, "CAUSAL_LM")
    )
    if type(config) not in known:
        raise UserError(
            f"{path}: model type {config.model_type} is not a language model that generates: "
            "transformers has no class for it"
        )
    return Wanted(path, auto, config, task)


def scalar_model(path: str, *, new_head: bool) -> Wanted:
    """A reward model, or the critic of a decoder-only policy."""
    config = load_config(path)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"{path}: model type {config.model_type} has no sequence-classification class in "
            "transformers: take another reward model or critic"
        )
    config.num_labels = 1
    return Wanted(path, AutoModelForSequenceClassification, config, "SEQ_CLS", new_head)


def value_model(path: str) -> Wanted:
    """The critic of an encoder-decoder policy."""
    config = load_config(path)
    if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        raise UserError(
            f"{path}: no value network for model type {config.model_type}: it has no "
            "token-classification class in transformers; take a method without a critic"
        )
    config.num_labels = 1
    return Wanted(path, AutoModelForTokenClassification, config, "TOKEN_CLS", new_head=True)


def reward_constants(config: PreTrainedConfig, *, path: str) -> tuple[float, float]:
    """The (mean, std) of a reward model's scores that its config.json holds."""
    fields = config.to_dict()
    missing = [name for name in ("mean", "std") if fields.get(name) is None]
    if missing:
        raise UserError(
            f"{path}: config.json has no {' and no '.join(missing)}, which "
            "reward.normalize_enable needs: train it with `rto reward`, or switch that flag off"
        )
    mean, std = fields["mean"], fields["std"]
    for name, value in (("mean", mean), ("std", std)):
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not math.isfinite(value):
            raise UserError(
                f"{path}: config.json has {name} {value!r:.60}: must be a finite number; train it "
                "with `rto reward`, or switch reward.normalize_enable off"
            )
    if not std > 0:
        raise UserError(f"{path}: config.json has std {std}: must be positive")
    return float(mean), float(std)


def set_reward_constants(config: PreTrainedConfig, *, mean: float, std: float) -> None:
    """Keep the constants in the config; they are written with the next ``save_pretrained``."""
    config.update({"mean": mean, "std": std})


def write_reward_constants(directory: Path, *, mean: float, std: float) -> None:
    """Put the constants into the config.json of a saved reward model."""
    config = load_config(str(directory))
    set_reward_constants(config, mean=mean, std=std)
    config.save_pretrained(directory)


def assert_same_tokenizer(
    tokenizers: Mapping[str, PreTrainedTokenizerBase], *, ends_alike: Collection[str] = ()
) -> None:
    """All models read the policy's token ids: each id must be the same token in all of them.

    Keys are the models' paths, for the message; the first is the policy's. Ids that one side
    holds in reserve may have been given a name on the other (Llama 3 and 3.2, say), and the
    padding token is never shown to a model, so it may differ. Models in ``ends_alike`` must also
    end a response with the policy's EoS, which their log-probs are asked for.
    """
    (first, expected), *others = tokenizers.items()
    names = {i: token for token, i in expected.get_vocab().items()}
    for path, tokenizer in others:
        where = f"tokenizers of {first} and {path} differ"
        theirs = {i: token for token, i in tokenizer.get_vocab().items()}
        _assert_same_ids(names, theirs, where=where)
        ends = expected.eos_token_id, tokenizer.eos_token_id
        if path in ends_alike and ends[0] != ends[1]:
            raise UserError(f"{where}: eos_token_id is {ends[0]} and {ends[1]}")


def _assert_same_ids(ours: Mapping[int, str], theirs: Mapping[int, str], *, where: str) -> None:
    for i in sorted(ours.keys() | theirs.keys()):
        pair = ours.get(i), theirs.get(i)
        if pair[0] != pair[1] and not any(token and RESERVED in token for token in pair):
            raise UserError(
                f"{where}: id {i} is token {pair[0]!r} and {pair[1]!r}; "
                "all models of a run must share one vocabulary"
            )


def _load(
    wanted: Wanted,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    max_len: int | None = None,
    lora: Lora | None = None,
    load_in_4bit: bool = False,
    gradient_checkpointing: bool = False,
    device: torch.device | None = None,
) -> PreTrainedModel | PeftModel:
    refuse_quantised(wanted, load_in_4bit=load_in_4bit)
    if wanted.task == "SEQ_CLS" and wanted.config.pad_token_id is None:
        wanted.config.pad_token_id = load_tokenizer(wanted.path).pad_token_id
    with reading(wanted.path):
        loaded = wanted.auto.from_pretrained(
            wanted.path,
            config=wanted.config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization_config=_four_bit(dtype) if load_in_4bit else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **source(wanted.path),
        )
    model, info = cast("tuple[PreTrainedModel, LoadingInfo]", loaded)
    check_loaded(wanted, model, info)
    _demand_finite(wanted, model)
    if wanted.task == "TOKEN_CLS" and "classifier.weight" in info["missing_keys"]:
        for parameter in model.get_submodule("classifier").parameters():
            torch.nn.init.zeros_(parameter)
    fix_frequencies(model, max_len=max_len)
    if load_in_4bit:
        _disable_avx512(model)
    elif device is not None:
        cast(torch.nn.Module, model).to(device)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # Importing peft takes seconds: only where adapters are asked for.
    return model if lora is None or lora.rank == 0 else with_adapters(model, lora, wanted.task)


def check_loaded(wanted: Wanted, model: PreTrainedModel, info: LoadingInfo) -> None:
    """Refuse a model that transformers filled up with random weights, or cut.

    Raises:
        UserError: weights are missing, do not fit, or belong to layers that the config lacks.
    """
    path, unexpected = wanted.path, set(info["unexpected_keys"])
    if wanted.task == "CAUSAL_LM" and any(name.startswith("score.") for name in unexpected):
        raise UserError(f"{path}: a reward model (its head is score), not a language model")
    if wanted.task == "SEQ_CLS" and "score" not in dict(model.named_children()):
        raise UserError(f"{path}: {type(model).__name__} has no head named score: use a decoder")
    if info["mismatched_keys"]:
        name, found, expected = sorted(info["mismatched_keys"])[0]
        what = (
            f"a head of {found[0]} labels, a reward model has 1"
            if name == "score.weight"
            else f"{name} has shape {list(found)} in the weights, config.json asks for "
            f"{list(expected)}"
        )
        raise UserError(f"{path}: {what}: take weights and config.json of one model")
    missing = set(info["missing_keys"]) - (NEW_HEADS if wanted.new_head else set())
    if missing:
        kind = ": it is not a reward model" if "score.weight" in missing else ""
        raise UserError(f"{path}: the checkpoint has no weights for {some(missing)}{kind}")
    layers = {NUMBER.sub("*", name) for name, _ in model.named_parameters()}
    cut = {name for name in unexpected if NUMBER.sub("*", name) in layers}
    if cut:
        raise UserError(
            f"{path}: the checkpoint has weights for {some(cut)}, which config.json leaves out: "
            "take weights and config.json of one model"
        )


def _demand_finite(wanted: Wanted, model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise UserError(
                f"{wanted.path}: {name} has values that are NaN or infinite: download or save the "
                "model again"
            )


def refuse_quantised(wanted: Wanted, *, load_in_4bit: bool) -> None:
    """Weights stored in fewer bits can be served, not trained or proven equal to an engine's."""
    stored = wanted.config.to_dict().get("quantization_config") or {}
    method = stored.get("quant_method", "unknown") if isinstance(stored, Mapping) else "unknown"
    if stored and not (load_in_4bit and method == "bitsandbytes"):
        raise UserError(
            f"{wanted.path}: its weights are quantised ({method}): take the model that it was made "
            "from (ds.load_in_4bit quantises at loading)"
        )


def _four_bit(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _disable_avx512(model: PreTrainedModel) -> None:
    """bitsandbytes repacks weights for AVX512-BF16 at the first eval forward; gradients of later
    training steps are then wrong."""
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
