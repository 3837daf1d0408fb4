"""Texts that go on from another one, by tokenizers that put a space before every text."""

from __future__ import annotations

import pytest
from tiny_tokenizers import piece_tokenizer, tiny_t5_tokenizer, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rto.models.continuation import Continuation


def metaspace() -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<unk>", "</s>", "▁", "a", "b", "▁a"])}
    inner = Tokenizer(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["</s>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.normalizer = normalizers.Strip()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


@pytest.mark.parametrize("make", [piece_tokenizer, metaspace, byte_level])
@pytest.mark.parametrize("text", ["a b", " a b", "  a", "a</s>"])
def test_a_text_comes_back_as_it_was(make, text: str) -> None:
    """Where a whole text gets a space before it, and loses one when it is decoded."""
    tokenizer = make()
    following = Continuation(tokenizer)
    ids = following.encode(text)
    spelt = "".join(tokenizer.convert_ids_to_tokens(ids))
    assert spelt.replace("▁", " ").replace("Ġ", " ") == text
    assert following.decode(ids) == text.removesuffix("</s>")
    whole = "".join(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))
    assert whole.removeprefix("<s>")[0] in "▁Ġ"


@pytest.mark.parametrize("make", [tiny_tokenizer, tiny_t5_tokenizer])
def test_other_tokenizers_are_asked_themselves(make) -> None:
    tokenizer = make()
    following = Continuation(tokenizer)
    ids = tokenizer("w1 w2", add_special_tokens=False)["input_ids"]
    assert following.encode("w1 w2") == ids
    assert following.decode([*ids, tokenizer.eos_token_id]) == "w1 w2"


def test_a_stored_cut_of_texts_does_not_cut_a_response() -> None:
    """tokenizer.json may hold a truncation, which transformers switches off at each call."""
    tokenizer = piece_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(2)
    assert len(Continuation(tokenizer).encode("abcdef")) == 6
