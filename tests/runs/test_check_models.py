"""Every model of a run and its engine, looked at before an actor loads one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import tiny_tokenizer

from rto.cluster.build import Models
from rto.errors import UserError
from rto.models.load import load_config
from rto.runs import check_models as check_models_module
from rto.runs.check_models import check_models, with_engine
from rto.sections.data import Data
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM, Cluster, DeepSpeed, Lora
from rto.sections.training import Actor
from rto.types import Role


def test_what_vllm_alone_does_is_refused_without_it(tiny_model_dir: Path) -> None:
    path = str(tiny_model_dir)
    assert with_engine(RunConfig(), path).vllm.engine == "vllm"
    joined = RunConfig(ray=Cluster(address="10.0.0.1:6379"), vllm=VLLM(engine="vllm"))
    assert with_engine(joined, path).vllm.engine == "vllm"
    for section in (VLLM(sync_backend="nccl"), VLLM(tensor_parallel_size=2)):
        assert with_engine(RunConfig(vllm=section), path).vllm.sync_backend == section.sync_backend
        asked = RunConfig(vllm=VLLM(**{**vars(section), "engine": "transformers"}))
        with pytest.raises(UserError, match="transformers, not vLLM, samples from .*: use "):
            with_engine(asked, path)


def checked(config: RunConfig, frozen: Models, **more: Any) -> None:
    check_models(config, tiny_tokenizer(), frozen, **more)


def of(path: Path | str, **sections: Any) -> RunConfig:
    return RunConfig(actor=Actor(model_name_or_path=str(path)), **sections)


def test_models_that_can_do_what_is_wanted_pass(
    tiny_model_dir: Path, tiny_reward_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = Models({Role.REFERENCE: str(tiny_model_dir)}, [str(tiny_reward_dir)])
    config = of(tiny_model_dir, data=Data(max_len=64))
    checked(config, frozen, critic=str(tiny_reward_dir))
    checked(config, frozen, kind="score")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("where", ["policy", "critic"])
def test_ranks_share_the_rows_of_a_model_whose_heads_divide(
    where: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The tiny model has four heads; here another one has eight."""
    wide = tmp_path / "wide"
    shutil.copytree(tiny_model_dir, wide)
    config = load_config(str(tiny_model_dir))
    config.update({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4})
    config.save_pretrained(wide)

    def sharing(path: Path, critic: Path) -> None:
        actor = Actor(model_name_or_path=str(path), num_gpus_per_node=8)
        eight = DeepSpeed(param_dtype="fp32", sequence_parallel_size=8)
        short = Data(max_len=64)
        checked(RunConfig(actor=actor, ds=eight, data=short), Models(), critic=str(critic))

    sharing(wide, wide)
    paths = (tiny_model_dir, wide) if where == "policy" else (wide, tiny_model_dir)
    with pytest.raises(UserError, match=f"{tiny_model_dir}: ds.seq.* is 8 and the model has 4"):
        sharing(*paths)


@pytest.mark.parametrize("where", ["policy", "critic", "reference", "reward"])
def test_a_model_that_cannot_is_named_wherever_it_stands(
    where: str, tiny_model_dir: Path, tiny_reward_dir: Path, tmp_path: Path
) -> None:
    """A language model is no reward model, and a config without weights is none at all."""
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    broken = str(tiny_model_dir) if where == "reward" else str(tmp_path)
    paths = {Role.REFERENCE: broken} if where == "reference" else {}
    frozen = Models(paths, [broken if where == "reward" else str(tiny_reward_dir)])
    config = of(broken if where == "policy" else tiny_model_dir, data=Data(max_len=64))
    with pytest.raises(UserError) as caught:
        checked(config, frozen, critic=broken if where == "critic" else None)
    assert broken in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_longer_than_a_model_reads_are_refused_by_the_setting_that_allows_them(
    tiny_model_dir: Path,
) -> None:
    with pytest.raises(UserError, match="data.max_len is 257"):
        checked(of(tiny_model_dir, data=Data(max_len=257)), Models())


def test_adapters_are_looked_for_in_the_model_in_training(tiny_model_dir: Path) -> None:
    lora = DeepSpeed(lora=Lora(rank=2, target_modules="nosuch"))
    with pytest.raises(UserError, match="nosuch"):
        checked(of(tiny_model_dir, ds=lora, data=Data(max_len=64)), Models())


@pytest.mark.parametrize(
    ("longest_prompt", "encoder_decoder", "names"),
    [
        (None, True, ["data.max_len"]),
        (20, False, ["data.max_len"]),
        (20, True, ["data.max_prompt_len", "data.max_len less data.max_prompt_len"]),
    ],
)
def test_prompt_and_response_have_rows_of_their_own_in_an_encoder_decoder(
    longest_prompt: int | None, encoder_decoder: bool, names: list[str]
) -> None:
    config = RunConfig(data=Data(max_len=50, max_prompt_len=longest_prompt))
    found = check_models_module._lengths(config, encoder_decoder=encoder_decoder)
    assert list(found) == names
    assert sum(found.values()) == 50


def test_a_reward_model_may_start_from_another_and_a_policy_may_not(tiny_reward_dir: Path) -> None:
    config = of(tiny_reward_dir, data=Data(max_len=64))
    checked(config, Models(), kind="score")
    with pytest.raises(UserError, match="tiny_reward"):
        checked(config, Models())
