"""The released recipe of RPO on an encoder-decoder model, rendered from its description.

What arXiv 2506.13702's code does for speed's purposes: prompts and responses padded to a fixed
length each, one forward of the reference per row for the partition estimate, then a second one for
every micro-batch beside the policy's, full log-softmax over the padding too. Log-probs are means
per token, rewards z-scored, and the estimate has no 1/N, as there. (Its shape error, which averages
the estimate over the batch, costs no time and is left out.)
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

IGNORED = -100


class Rated(NamedTuple):
    prompt: str
    response: str
    reward: float


def seconds_of_an_epoch(
    policy: T5ForConditionalGeneration,
    reference: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Rated],
    *,
    tau: float,
    max_len: int,
    batch: int,
    accumulation: int,
    lr: float,
) -> float:
    """Train on each row once; the partition estimates are part of the time."""
    start = time.perf_counter()
    reward = torch.tensor([row.reward for row in rows])
    reward = (reward - reward.mean()) / (reward.std(correction=0) + 1e-8)
    inputs = [encode(tokenizer, [row], max_len) for row in rows]
    value = partition(reference.eval(), rows, inputs, reward, tau=tau)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr)
    policy.train()
    for step, first in enumerate(range(0, len(rows), batch), start=1):
        at = slice(first, first + batch)
        part = {key: torch.cat([row[key] for row in inputs[at]]) for key in inputs[first]}
        with torch.no_grad():
            before = mean_logprobs(reference, part)
        target = (reward[at] - value[at]) / tau
        loss = 0.5 * nn.functional.mse_loss(mean_logprobs(policy, part) - before, target)
        (loss / accumulation).backward()
        if step % accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()
    return time.perf_counter() - start


@torch.no_grad()
def partition(
    reference: T5ForConditionalGeneration,
    rows: Sequence[Rated],
    inputs: Sequence[dict[str, Tensor]],
    reward: Tensor,
    *,
    tau: float,
) -> Tensor:
    """tau log sum_j exp(mean log pi_ref_j + r_j / tau) over the rows of each one's prompt [N]."""
    logprobs = torch.cat([mean_logprobs(reference, row) for row in inputs])
    of: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        of[row.prompt].append(number)
    sums = {prompt: (logprobs[at] + reward[at] / tau).logsumexp(0) for prompt, at in of.items()}
    return tau * torch.stack([sums[row.prompt] for row in rows])


def encode(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Rated], max_len: int
) -> dict[str, Tensor]:
    """Ids and mask of the prompts and labels of the responses, all [B, max_len]."""

    def padded(texts: list[str]) -> tuple[Tensor, Tensor]:
        found = tokenizer(
            texts, padding="max_length", truncation=True, max_length=max_len, return_tensors="pt"
        )
        return torch.as_tensor(found["input_ids"]), torch.as_tensor(found["attention_mask"])

    ids, mask = padded([row.prompt for row in rows])
    labels, real = padded([row.response for row in rows])
    labels = labels.masked_fill(real == 0, IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def mean_logprobs(model: T5ForConditionalGeneration, part: dict[str, Tensor]) -> Tensor:
    """Mean log-prob per response token [B], from the logits of all positions."""
    labels = part["labels"]
    logits = model(**part).logits
    real = labels != IGNORED
    chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (chosen * real).sum(-1) / real.sum(-1)
