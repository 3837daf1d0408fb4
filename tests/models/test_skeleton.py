"""Models that a run would be sorry to load, refused by their config and the headers of weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_refusal import refusal
from safetensors.torch import load_file, save_file
from tiny_tokenizers import tiny_tokenizer
from transformers import AutoModelForCausalLM

from rto.errors import UserError
from rto.models.load import load_language_model, load_tokenizer
from rto.models.skeleton import Needs, Use, check_model, num_parameters

WEIGHTS = "model.safetensors"


def needs(folder: Path, **more: Any) -> Needs:
    return replace(Needs(load_tokenizer(str(folder)), {"data.max_len": 64}), **more)


@pytest.fixture
def broken(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model_dir, folder)
    return folder


def rewrite(folder: Path, **more: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def test_sound_models_pass(tiny_model_dir: Path, tiny_reward_dir: Path, tiny_t5_dir: Path) -> None:
    sound: list[tuple[Path, Use]] = [
        (tiny_model_dir, "policy"),
        (tiny_model_dir, "critic"),
        (tiny_model_dir, "new reward"),
        (tiny_reward_dir, "reward"),
        (tiny_reward_dir, "critic"),
        (tiny_t5_dir, "policy"),
        (tiny_t5_dir, "critic"),
    ]
    for folder, use in sound:
        check_model(str(folder), use, needs(folder))


def test_what_a_model_is_taken_for(tiny_model_dir: Path, tiny_reward_dir: Path) -> None:
    assert "score.weight: it is not a reward model" in refusal(tiny_model_dir, "reward")
    assert "a reward model" in refusal(tiny_reward_dir, "policy")


def test_a_reward_model_with_tied_embeddings_is_no_policy_either(
    tiny_reward_dir: Path, tmp_path: Path
) -> None:
    """Nothing is missing of a language model then, but the head of the reward is left over."""
    folder = tmp_path / "tied"
    shutil.copytree(tiny_reward_dir, folder)
    rewrite(folder, tie_word_embeddings=True)
    assert "a reward model" in refusal(folder, "policy")
    with pytest.raises(UserError, match="a reward model"):
        load_language_model(str(folder), dtype=torch.float32, attn_implementation="sdpa")


def test_a_classifier_of_several_labels_is_no_reward_model(
    tiny_reward_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labels"
    shutil.copytree(tiny_reward_dir, folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "score.weight": torch.zeros(3, 32)}, folder / WEIGHTS)
    assert "3 labels" in refusal(folder, "reward")


def cut(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def rope(folder: Path, **more: Any) -> None:
    rewrite(folder, rope_parameters={"rope_type": "default", "rope_theta": 10000.0} | more)


def as_integers(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    cast = {name: tensor.to(torch.int8) for name, tensor in tensors.items()}
    save_file(cast, folder / WEIGHTS, {"format": "pt"})


def index(folder: Path, text: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(text)


def without(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        del tensors[name]
        save_file(tensors, folder / WEIGHTS)

    return damage


def others(*names: str, keep: str = "config.json") -> Callable[[Path], None]:
    """The folder holds these files, and of its own only the one to keep."""

    def damage(folder: Path) -> None:
        for each in folder.iterdir():
            if each.name != keep:
                each.unlink()
        for name in names:
            (folder / name).write_text("{}")

    return damage


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no weights"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "model.safetensors is damaged"),
    "cut weights": (cut, "model.safetensors is damaged"),
    "LFS pointer": (lambda f: (f / WEIGHTS).write_text(POINTER), "model.safetensors is damaged"),
    "index without its part": (
        lambda f: index(f, '{"weight_map": {"a": "part-1.safetensors"}}'),
        "part-1.safetensors is not there",
    ),
    "index of another kind": (lambda f: index(f, '{"weight_map": 3}'), "index.json is damaged"),
    "index cut": (lambda f: index(f, '{"weight_m'), "index.json is damaged"),
    "a tensor missing": (without("model.norm.weight"), "no weights for model.norm.weight"),
    "more layers in the config": (lambda f: rewrite(f, num_hidden_layers=3), "no weights for"),
    "fewer layers in the config": (lambda f: rewrite(f, num_hidden_layers=1), "leaves out"),
    "another width": (lambda f: rewrite(f, intermediate_size=48), "has shape"),
    "a width in words": (lambda f: rewrite(f, hidden_size="many"), "value: 'many'"),
    "no layers": (lambda f: rewrite(f, num_hidden_layers=0), "num_hidden_layers 0: must be"),
    "layers below 0": (lambda f: rewrite(f, num_hidden_layers=-1), "num_hidden_layers -1"),
    "no positions": (lambda f: rewrite(f, max_position_embeddings=0), "max_position_embeddings 0"),
    "a rope factor in words": (lambda f: rope(f, rope_type="linear", factor="two"), "factor 'two'"),
    "a rope factor below 0": (lambda f: rope(f, rope_type="dynamic", factor=-2.0), "factor -2.0"),
    "a rope theta of 0": (lambda f: rope(f, rope_theta=0), "rope_theta 0"),
    "whole numbers": (as_integers, "is stored as int8: its weights are quantised"),
    "impossible heads": (lambda f: rewrite(f, num_attention_heads=0), "cannot load"),
    "a pad id beyond the rows": (lambda f: rewrite(f, pad_token_id=900), "makes no model"),
    "empty config": (lambda f: (f / "config.json").write_text("{}"), "no model_type"),
    "config of a list": (lambda f: (f / "config.json").write_text("[]"), "is a list"),
    "cut config": (lambda f: (f / "config.json").write_text('{"a'), "cannot load"),
    "zero-byte config": (lambda f: (f / "config.json").write_bytes(b""), "cannot load"),
    "unknown type": (lambda f: rewrite(f, model_type="llama99"), "'llama99'"),
    "type of another kind": (lambda f: rewrite(f, model_type=["llama"]), "model_type"),
    "no language model": (lambda f: rewrite(f, model_type="clip"), "not a language model"),
    "code of its own": (
        lambda f: rewrite(f, model_type="mine", auto_map={"AutoConfig": "a.B"}),
        "code is never run",
    ),
    "quantised": (
        lambda f: rewrite(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantised (gptq)",
    ),
    "adapters alone": (others("adapter_config.json", keep=WEIGHTS), "merge them"),
    "GGUF alone": (others("m.gguf", keep="tokenizer.json"), "GGUF"),
    "another format": (others("m.h5"), "m.h5 is of a kind that is not read"),
    "no config": (others(keep=WEIGHTS), "no config.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models_are_refused_in_one_line(damage: str, broken: Path) -> None:
    inflict, said = DAMAGES[damage]
    inflict(broken)
    assert said in refusal(broken)


@pytest.mark.parametrize(
    "damage",
    [
        "no weights", "empty weights", "cut weights", "index without its part",
        "a tensor missing", "fewer layers in the config", "another width",
        "a width in words", "quantised", "no language model",
    ],
)  # fmt: skip
def test_the_loader_refuses_them_too(damage: str, broken: Path) -> None:
    DAMAGES[damage][0](broken)
    with pytest.raises(UserError) as caught:
        load_language_model(str(broken), dtype=torch.float32, attn_implementation="sdpa")
    assert broken.name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_loader_refuses_weights_that_are_no_numbers(value: float, broken: Path) -> None:
    tensors = load_file(broken / WEIGHTS)
    tensors["model.norm.weight"][-1] = value
    save_file(tensors, broken / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=r"broken: model\.norm\.weight has values that are NaN or"):
        load_language_model(str(broken), dtype=torch.float32, attn_implementation="sdpa")


TOKENIZERS = {"empty": "{}", "list": "[]", "cut": '{"model', "numbers": '{"model": {"vocab": 3}}'}


@pytest.mark.parametrize("text", TOKENIZERS)
def test_damaged_tokenizers(text: str, broken: Path) -> None:
    (broken / "tokenizer.json").write_text(TOKENIZERS[text])
    with pytest.raises(UserError, match="broken: cannot load") as caught:
        load_tokenizer(str(broken))
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_folder_in_place_of_its_model(broken: Path) -> None:
    assert "but in broken inside it: give that folder" in refusal(broken.parent)


def test_shards_and_pickles_are_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    tiny_tokenizer().save_pretrained(tmp_path / "shards")
    check_model(str(tmp_path / "shards"), "policy", needs(tmp_path / "shards"))
    old = tmp_path / "old"
    shutil.copytree(tiny_model_dir, old)
    torch.save(load_file(old / WEIGHTS), old / "pytorch_model.bin")
    (old / WEIGHTS).unlink()
    check_model(str(old), "policy", needs(old))
    (old / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert "pytorch_model.bin is damaged" in refusal(old)


def test_tokens_without_rows(tiny_model_dir: Path, tiny_t5_dir: Path) -> None:
    """64 rows; the last of the tokenizer's 64 tokens has id 63."""
    tokenizer = tiny_tokenizer()
    check_model(str(tiny_model_dir), "policy", Needs(tokenizer, {}))
    tokenizer.add_tokens(["new"])
    for use in ("policy", "critic"):
        with pytest.raises(UserError, match="token 'new' of the tokenizer has id 64, .* 64 rows"):
            check_model(str(tiny_model_dir), use, Needs(tokenizer, {}))
    with pytest.raises(UserError, match="rows"):
        check_model(str(tiny_t5_dir), "critic", Needs(tokenizer, {}))


def test_rows_beyond_the_positions(tiny_model_dir: Path) -> None:
    check_model(str(tiny_model_dir), "policy", Needs(tiny_tokenizer(), {"data.max_len": 256}))
    with pytest.raises(UserError, match="data.max_len is 257"):
        check_model(str(tiny_model_dir), "policy", Needs(tiny_tokenizer(), {"data.max_len": 257}))


def test_parameters_are_counted_as_the_model_will_be(
    tiny_model_dir: Path, tiny_t5_dir: Path
) -> None:
    """A critic has a head [1, 32] in place of one [64, 32]; T5's policy has its decoder."""
    causal = AutoModelForCausalLM.from_pretrained(tiny_model_dir).num_parameters()
    assert num_parameters(str(tiny_model_dir), "policy") == causal
    assert num_parameters(str(tiny_model_dir), "critic") == causal - 63 * 32
    t5: Any = load_language_model(str(tiny_t5_dir), dtype=torch.float32, attn_implementation="sdpa")
    assert num_parameters(str(tiny_t5_dir), "policy") == t5.num_parameters()
    encoder = sum(p.numel() for p in t5.get_encoder().parameters())
    assert num_parameters(str(tiny_t5_dir), "critic") == encoder + 32 + 1


@pytest.mark.parametrize("here", [True, False], ids=["weights here", "weights on the hub"])
@pytest.mark.parametrize(("tied", "heads"), [(False, 2), (True, 1)], ids=["Flan-T5", "T5"])
def test_a_head_of_its_own_is_counted(
    tied: bool,
    heads: int,
    here: bool,
    tiny_t5_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Input embedding and head are [61, 32] each, and one tensor where they are tied."""
    folder = tmp_path / "t5"
    shutil.copytree(tiny_t5_dir, folder)
    rewrite(folder, tie_word_embeddings=tied, scale_decoder_outputs=tied)
    file = folder / WEIGHTS
    tensors = load_file(file)
    if tied:
        save_file({k: v for k, v in tensors.items() if k != "lm_head.weight"}, file)
    blocks = [x for k, x in tensors.items() if k not in ("shared.weight", "lm_head.weight")]
    if not here:
        monkeypatch.setattr("rto.models.skeleton.weight_file", lambda path: None)
    expected = sum(x.numel() for x in blocks) + heads * 61 * 32
    assert num_parameters(str(folder), "policy") == expected
