"""Models and tokenizers from a directory or a hub id."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
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
from rto.sections_runtime import Lora

if TYPE_CHECKING:
    from peft import PeftModel

DROPOUTS = ("dropout", "pdrop", "dropout_rate", "layerdrop")
"""Endings of the names that config.json has for them."""
SCALE = "scale_decoder_outputs"
"""Whether a T5 scales its decoder's states before its head."""
NEW_HEADS = {"score.weight", "classifier.weight", "classifier.bias"}
RESERVED = "reserved_special_token"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_tokenizer(path: str, *, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer, with EoS as padding where it has no padding token of its own.

    ``chat_template`` is the name of one of its templates, or a file that holds one.
    """
    with _named(path), foreign(f"{path}: cannot load its tokenizer", "save it anew"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: the tokenizer has no eos_token; set one in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template is not None:
        tokenizer.chat_template = _chosen_template(tokenizer, chat_template)
    return tokenizer


def generation_stops(path: str) -> tuple[int, ...]:
    """The tokens that end a response by generation_config.json, or by config.json without one."""
    with _named(path), foreign(f"{path}: cannot read generation_config.json", "repair it"):
        file = cached_file(
            path, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False
        )
        if file is None:
            ends = load_config(path).to_dict().get("eos_token_id")
        else:
            ends = json.loads(Path(file).read_text(encoding="utf-8")).get("eos_token_id")
    found = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(isinstance(end, int) and not isinstance(end, bool) and end >= 0 for end in found):
        raise UserError(f"{path}: eos_token_id of its generation config is {ends!r}: give ids")
    return tuple(found)


def _chosen_template(tokenizer: PreTrainedTokenizerBase, choice: str) -> str:
    held = tokenizer.chat_template
    names = sorted(held) if isinstance(held, dict) else []
    if isinstance(held, dict) and choice in names:
        return held[choice]
    file = Path(choice).expanduser()
    if not file.is_file():
        known = f"its templates are {', '.join(names)}" if names else "it has no named templates"
        raise UserError(
            f"data.chat_template {choice}: no such file, nor a template of "
            f"{tokenizer.name_or_path}: {known}"
        )
    with foreign(f"data.chat_template {choice}: cannot be read", "give a jinja template in UTF-8"):
        text = file.read_text(encoding="utf-8")
    if not text.strip():
        raise UserError(f"data.chat_template {choice}: the file is empty")
    return text


def load_config(path: str) -> PreTrainedConfig:
    """The model's config with every dropout off: a ratio of two forwards must start at 1."""
    with _named(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        written, _ = PreTrainedConfig.get_config_dict(path)
    if SCALE in written:
        # transformers 5 writes it and, reading, puts tie_word_embeddings in its place.
        setattr(config, SCALE, written[SCALE])
    for name, value in config.to_dict().items():
        if name.endswith(DROPOUTS) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def is_encoder_decoder(path: str) -> bool:
    """Whether the model reads its prompt with an encoder of its own (T5, BART)."""
    return bool(load_config(path).is_encoder_decoder)


def load_language_model(
    path: str,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    lora: Lora | None = None,
    load_in_4bit: bool = False,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel | PeftModel:
    """A causal or an encoder-decoder LM, as its config says; with peft adapters on it when
    ``lora.rank`` is above 0."""
    config = load_config(path)
    auto, task = (
        (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM")
        if config.is_encoder_decoder
        else (AutoModelForCausalLM, "CAUSAL_LM")
    )
    model = _load(
        auto,
        path,
        config,
        dtype=dtype,
        attn_implementation=attn_implementation,
        load_in_4bit=load_in_4bit,
    )
    return _prepared(model, lora, task, gradient_checkpointing)


def load_scalar_model(
    path: str,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    new_head: bool,
    lora: Lora | None = None,
    load_in_4bit: bool = False,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel | PeftModel:
    """A sequence classifier with one label and head ``score``.

    ``new_head`` allows a checkpoint without the head (a causal LM) and initialises it; without
    it such a checkpoint is an error, for a random head would pass as a reward model.
    """
    config = load_config(path)
    config.num_labels = 1
    if config.pad_token_id is None:
        config.pad_token_id = load_tokenizer(path).pad_token_id
    model = _load(
        AutoModelForSequenceClassification,
        path,
        config,
        dtype=dtype,
        attn_implementation=attn_implementation,
        load_in_4bit=load_in_4bit,
        new_head=new_head,
    )
    return _prepared(model, lora, "SEQ_CLS", gradient_checkpointing)


def load_value_model(
    path: str,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    lora: Lora | None = None,
    load_in_4bit: bool = False,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel | PeftModel:
    """The encoder of an encoder-decoder model with a scalar head ``classifier``.

    A new head starts at 0, which is the mean of the rewards that DRO regresses on.
    """
    config = load_config(path)
    if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        raise UserError(
            f"{path}: no value network for model type {config.model_type}: it has no "
            "token-classification class in transformers; take a method without a critic"
        )
    config.num_labels = 1
    model = _load(
        AutoModelForTokenClassification,
        path,
        config,
        dtype=dtype,
        attn_implementation=attn_implementation,
        load_in_4bit=load_in_4bit,
        new_head=True,
    )
    return _prepared(model, lora, "TOKEN_CLS", gradient_checkpointing)


def reward_constants(config: PreTrainedConfig, *, path: str) -> tuple[float, float]:
    """The (mean, std) of a reward model's scores that its config.json holds."""
    fields = config.to_dict()
    missing = [name for name in ("mean", "std") if fields.get(name) is None]
    if missing:
        raise UserError(
            f"{path}: config.json has no {' and no '.join(missing)}, which "
            "reward.normalize_enable needs: train it with `rto reward`, or switch that flag off"
        )
    mean, std = float(fields["mean"]), float(fields["std"])
    if not std > 0:
        raise UserError(f"{path}: config.json has std {std}: must be positive")
    return mean, std


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
        for i in sorted(names.keys() | theirs.keys()):
            pair = names.get(i), theirs.get(i)
            if pair[0] != pair[1] and not any(token and RESERVED in token for token in pair):
                raise UserError(
                    f"{where}: id {i} is token {pair[0]!r} and {pair[1]!r}; "
                    "all models of a run must share one vocabulary"
                )
        ends = expected.eos_token_id, tokenizer.eos_token_id
        if path in ends_alike and ends[0] != ends[1]:
            raise UserError(f"{where}: eos_token_id is {ends[0]} and {ends[1]}")


def _load(
    auto: type[Any],
    path: str,
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    load_in_4bit: bool,
    new_head: bool = False,
) -> PreTrainedModel:
    quantization = _four_bit(dtype) if load_in_4bit else None
    with _named(path):
        loaded: Any = auto.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization_config=quantization,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, info = loaded
    missing = set(info["missing_keys"]) - (NEW_HEADS if new_head else set())
    if missing:
        raise UserError(
            f"{path}: the checkpoint has no weights for {', '.join(sorted(missing))}"
            + (": it is not a reward model" if "score.weight" in missing else "")
        )
    if auto is AutoModelForSequenceClassification and "score" not in dict(model.named_children()):
        raise UserError(f"{path}: {type(model).__name__} has no head named score: use a decoder")
    if auto is AutoModelForTokenClassification and "classifier.weight" in info["missing_keys"]:
        for parameter in model.get_submodule("classifier").parameters():
            torch.nn.init.zeros_(parameter)
    if load_in_4bit:
        _disable_avx512(model)
    return model


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


def _prepared(
    model: PreTrainedModel, lora: Lora | None, task: str, gradient_checkpointing: bool
) -> PreTrainedModel | PeftModel:
    """With adapters where they are asked for. Importing peft takes seconds: only then."""
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora is None or lora.rank == 0:
        return model
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_target_modules(lora.target_modules),
        task_type=task,
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


def _target_modules(names: str) -> str | list[str]:
    return [name.strip() for name in names.split(",")] if "," in names else names


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Loading errors as one line that names the path and says what it should have been."""
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{path}: no config.json in this directory: not a saved model")
    elif not HUB_ID.fullmatch(path):
        raise UserError(f"{path}: neither a directory that exists nor a hub id")
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        kind = "directory" if folder.is_dir() else "hub id (no such directory here)"
        raise UserError(f"{path}: cannot load this {kind}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
