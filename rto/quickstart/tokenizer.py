"""The toy's tokenizer and untrained model, as Hugging Face directories."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rto.quickstart.toy import VOCABULARY

PAD, BOS, EOS, UNKNOWN, USER, ASSISTANT = SPECIAL = (
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<user>",
    "<assistant>",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %} <assistant> {{ message.content }} {{ eos_token }}"
    "{% else %} <user> {{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} <assistant> {% endif %}"
)
MAX_POSITIONS = 128


def build_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """One token per word of the toy; saved to ``directory``."""
    words = {word: i for i, word in enumerate([*SPECIAL, *VOCABULARY])}
    tokenizer = Tokenizer(WordLevel(words, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(directory)
    return fast


def build_base_model(directory: Path, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama of 0.6M parameters; saved to ``directory``."""
    tokenizer = build_tokenizer(directory)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(EOS),
        tie_word_embeddings=False,
        initializer_range=0.08,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    return model
