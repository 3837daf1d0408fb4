"""Every model of a run, and the engine that serves it, looked at before an actor loads one."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from rto.cluster import launch
from rto.cluster.actors import Kind
from rto.cluster.build import Models
from rto.models.load import is_encoder_decoder, load_config
from rto.models.sequence import check_config
from rto.models.skeleton import Needs, Use, check_model
from rto.models.trained_with import told_differences
from rto.rollout.engine import settled
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig
from rto.sections.runtime import VLLM


def check_models(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    frozen: Models,
    *,
    kind: Kind = "policy",
    critic: str | None = None,
) -> None:
    """The model in training, its ``critic`` where it has one, and those of the scorer actors.

    Says where a reward model was trained on texts that were rendered otherwise than here.

    Raises:
        UserError: a model cannot do what the run wants of it; one line with its path.
    """
    path, ds = str(config.actor.model_name_or_path), config.ds
    encoder_decoder = is_encoder_decoder(path)
    needs = Needs(
        tokenizer=tokenizer,
        lengths=_lengths(config, encoder_decoder=encoder_decoder),
        lora=ds.lora,
        load_in_4bit=ds.load_in_4bit,
    )
    if ds.sequence_parallel_size > 1:
        for shared in filter(None, [path, critic]):
            check_config(shared, load_config(shared), ds.sequence_parallel_size)
    still = Needs(tokenizer, needs.lengths)
    trained: Use = "new reward" if kind == "score" else "policy"
    check_model(path, trained, needs)
    if critic is not None:
        check_model(critic, "critic", needs)
    for other in sorted(set(frozen.paths.values()) - ({path} if trained == "policy" else set())):
        check_model(other, "policy", still)
    for other in sorted(set(frozen.rewards)):
        check_model(other, "reward", still)
    for other in sorted({*frozen.rewards, *filter(None, [critic])}):
        for line in told_differences(load_config(other), config.data, path=other):
            print(line)


def _lengths(config: RunConfig, *, encoder_decoder: bool) -> dict[str, int]:
    """The longest rows that a model may be given, by the setting that allows them."""
    data = config.data
    if not encoder_decoder or data.max_prompt_len is None:
        return {"data.max_len": data.max_len}
    return {
        "data.max_prompt_len": data.max_prompt_len,
        "data.max_len less data.max_prompt_len": data.max_len - data.max_prompt_len,
    }


def with_engine(config: RunConfig, path: str) -> RunConfig:
    """The configuration with ``vllm.engine`` settled for the model at ``path``.

    What only vLLM does is refused where transformers samples.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    encoder_decoder = is_encoder_decoder(path)
    remote = launch.cluster_address(config.ray) is not None or config.plan.gpus is not None
    vllm = settled(config.vllm, path, encoder_decoder=encoder_decoder, remote=remote)
    if vllm.engine == "transformers":
        _check_transformers(vllm, path)
    return replace(config, vllm=vllm)


def _check_transformers(vllm: VLLM, path: str) -> None:
    for name, value, only in (
        ("sync_backend", vllm.sync_backend, ("auto", "object_store")),
        ("tensor_parallel_size", vllm.tensor_parallel_size, (1,)),
    ):
        require(
            value in only,
            f"vllm.{name} is {value} and transformers, not vLLM, samples from {path}: "
            f"use {only[-1]}",
        )
