"""Every model of a run, and the engine that serves it, looked at before an actor loads one."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from rto.builds import require_vllm
from rto.cluster import launch
from rto.cluster.actors import Kind
from rto.cluster.build import Models
from rto.config import RunConfig
from rto.models.load import is_encoder_decoder, load_config
from rto.models.skeleton import Needs, Use, check_model
from rto.models.trained_with import told_differences
from rto.ranges import require


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


def check_engine(config: RunConfig, *, encoder_decoder: bool) -> None:
    """vLLM is there, and what only it does is refused for an encoder-decoder model, which it does
    not serve.

    Raises:
        UserError: one line with the name, the value and the remedy.
    """
    if not encoder_decoder:
        if launch.cluster_address(config.ray) is None:
            require_vllm()
        return
    path, vllm = config.actor.model_name_or_path, config.vllm
    for name, value, only in (
        ("sync_backend", vllm.sync_backend, ("auto", "object_store")),
        ("tensor_parallel_size", vllm.tensor_parallel_size, (1,)),
    ):
        require(
            value in only,
            f"vllm.{name} is {value} and {path} is an encoder-decoder model, which is sampled "
            f"from without vLLM: use {only[-1]}",
        )
