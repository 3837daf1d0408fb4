"""A local chat model as a judge, on a vLLM engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rto.data.templates import Message, Where, load_template
from rto.errors import UserError
from rto.models.device import with_dtype
from rto.models.load import load_config
from rto.models.rope import max_positions
from rto.rollout.engine import alone, build_engine
from rto.rollout.requests import SampleRequest, Sampling
from rto.sections.run_config import RunConfig


def ask_local(
    path: str, conversations: Sequence[list[Message]], config: RunConfig, *, max_new_tokens: int
) -> list[str]:
    """The model's greedy answer to each conversation.

    Raises:
        UserError: the model has no chat template, or a conversation fills its context.
    """
    template = load_template(path, replace(config.data, input_template=None))
    if not template.apply_chat_template:
        raise UserError(f"--judge vllm:{path}: the tokenizer has no chat template to ask it with")
    texts = [
        template.prompt(talk, Where(path, row, "judgement"))
        for row, talk in enumerate(conversations)
    ]
    token_ids = [template.prompt_ids(text) for text in texts]
    longest = max(map(len, token_ids))
    context = max_positions(load_config(path)) or longest + max_new_tokens
    if longest >= context:
        raise UserError(
            f"--judge vllm:{path}: the longest judgement asks with {longest} tokens, its context "
            f"is {context}: take another judge, a shorter --judge_prompt or --max_new_tokens"
        )
    engine = build_engine(
        path,
        alone(with_dtype(config), "vllm"),
        max_len=min(context, longest + max_new_tokens),
        device=config.train.device,
    )
    engine.accept(0)
    requests = [SampleRequest(ids, config.train.seed) for ids in token_ids]
    sampling = Sampling(max_new_tokens, temperature=0.0, stop_token_ids=template.stop_token_ids)
    samples = engine.generate(requests, sampling, 0)
    return [sample.text for sample in samples]
