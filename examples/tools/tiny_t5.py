"""A tiny random T5 and its tokenizer, to try the encoder-decoder commands on a CPU.

    python examples/tools/tiny_t5.py OUT_DIR FEEDBACK.jsonl

The tokenizer (byte-level BPE that closes a text with </s>, as T5's does) learns its vocabulary from
the file; the model has Flan-T5's architecture and no training. It shows that a command works, not
what a method can do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAD, EOS, UNKNOWN = SPECIAL = ("<pad>", "</s>", "<unk>")
"""Ids 0, 1 and 2, as T5 has them; the decoder starts with <pad>."""


def build(out: Path, texts: Iterable[str], *, vocabulary: int, seed: int = 0) -> None:
    """Write model and tokenizer to ``out``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, SPECIAL.index(EOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN
    )
    shape: Any = {
        "vocab_size": len(fast),
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": SPECIAL.index(PAD),
    }
    config = T5Config(**shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(0.1 * model.lm_head.weight.detach().clone())
    model.save_pretrained(out)
    fast.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("feedback", type=Path)
    parser.add_argument("--vocabulary", type=int, default=2000, help="pieces (default %(default)s)")
    arguments = parser.parse_args()
    texts = arguments.feedback.read_text(encoding="utf-8").splitlines()
    build(arguments.out, texts, vocabulary=arguments.vocabulary)
    print(arguments.out)


if __name__ == "__main__":
    main()
