"""A tiny causal transformer on a task with a prompt, EoS and a true reward known per token.

The vocabulary is EoS and words; a prompt is one word. The true reward of a word depends on
(prompt, token before it, word), less a price that grows with its position; EoS itself pays
nothing. So there is a best length, and the better the words the longer it is. Policies, reward
models and critics are the package's own around GPT-2s, trained by bare loops around its methods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from rto.methods.sft import SFT
from rto.models.causal import CausalPolicy
from rto.models.heads import SequenceReward
from rto.protocols import PolicyMethod
from rto.types import LossNorm, ScoredBatch, TokenBatch, TrainBatch

EOS = 0


@dataclass(frozen=True)
class Sizes:
    words: int = 8
    reward_mean: float = 0.15
    """Of a word before the price, with the standard deviation ``reward_sd``."""
    reward_sd: float = 0.3
    price: float = 0.015
    """Of a word at position h: h times this."""
    max_length: int = 32
    width: int = 48
    demonstrations: int = 4096
    sft_lr: float = 3e-3


TINY = Sizes(max_length=6, width=8, demonstrations=64)
"""Only tests the programs."""


@dataclass(frozen=True)
class Task:
    """Tables over ids: 0 is EoS, 1 .. W are words; V = W + 1.

    ``reward`` [V prompt, V before, V token]; the token before the first one is the prompt.
    ``words`` [V, V] are the log-probs of the demonstrations' next word given the one before.
    """

    reward: Tensor
    words: Tensor
    price: float
    max_length: int

    @classmethod
    def make(cls, sizes: Sizes, seed: int) -> Task:
        rng = torch.Generator().manual_seed(seed)
        size = sizes.words + 1
        logits = torch.randn(size, size, generator=rng)
        logits[:, EOS] = -torch.inf
        by_before = torch.randn(1, size, size, generator=rng)
        by_prompt = torch.randn(size, 1, size, generator=rng)
        by_itself = torch.randn(size, generator=rng)
        reward = sizes.reward_mean + sizes.reward_sd * (by_before + by_prompt + by_itself) / 3**0.5
        reward[..., EOS] = 0
        return cls(reward, logits.log_softmax(-1), sizes.price, sizes.max_length)

    @property
    def vocabulary(self) -> int:
        return len(self.words)

    def prompts(self, count: int, rng: torch.Generator) -> Tensor:
        """Ids [count]."""
        return torch.randint(1, self.vocabulary, (count,), generator=rng)

    def true_reward(self, tokens: TokenBatch) -> Tensor:
        """[B]."""
        ids, prompt = tokens.response_ids, tokens.prompt_ids
        before = torch.cat([prompt, ids[:, :-1]], dim=1)
        position = torch.arange(ids.shape[1])
        paid = self.reward[prompt, before, ids] - self.price * position * (ids != EOS)
        return paid.masked_fill(~tokens.response_mask, 0).sum(-1)

    def best(self) -> float:
        """The true reward of the best response, averaged over prompts."""
        ahead = torch.zeros(self.vocabulary, self.vocabulary)
        for position in reversed(range(self.max_length)):
            paid = self.reward - self.price * position + ahead.unsqueeze(1)
            paid[..., EOS] = 0
            ahead = paid.max(-1).values
        return float(ahead.diagonal()[1:].mean())

    def demonstrations(self, count: int, rng: torch.Generator) -> TokenBatch:
        """Chains of words; the chance to stop after h tokens is ((h + 1) / max_length)^2."""
        prompts = self.prompts(count, rng)
        last, ids = prompts, []
        for position in range(self.max_length):
            word = torch.multinomial(self.words[last].exp(), 1, generator=rng).squeeze(-1)
            stops = torch.rand(count, generator=rng) < ((position + 1) / self.max_length) ** 2
            ids.append(torch.where(stops, EOS, word))
            last = word
        return token_batch(prompts, torch.stack(ids, 1), each=1)


def token_batch(prompts: Tensor, ids: Tensor, *, each: int) -> TokenBatch:
    """Prompts [B] and responses [B, T], which end at their first EoS; groups of ``each`` rows."""
    eos = ids == EOS
    mask = (eos.cumsum(-1) - eos.long()) == 0
    return TokenBatch(
        prompt_ids=prompts.unsqueeze(-1),
        prompt_mask=torch.ones(len(ids), 1, dtype=torch.bool),
        response_ids=ids.masked_fill(~mask, EOS),
        response_mask=mask,
        sampler_logprobs=torch.zeros(ids.shape),
        finished=eos.any(-1),
        group=torch.arange(len(ids)) // each,
    )


@torch.no_grad()
def sample(
    policy: CausalPolicy, prompts: Tensor, *, each: int, max_length: int, rng: torch.Generator
) -> TokenBatch:
    """``each`` responses to each of the prompts [N], rows of a prompt together."""
    prompts = prompts.repeat_interleave(each)
    last, cache, ids = prompts.unsqueeze(-1), None, []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    while len(ids) < max_length and not bool(ended.all()):
        out = policy.model(input_ids=last, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        last = torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=rng)
        ids.append(last.squeeze(-1))
        ended |= ids[-1] == EOS
    return token_batch(prompts, torch.stack(ids, 1), each=each)


def config(sizes: Sizes) -> GPT2Config:
    return GPT2Config(
        vocab_size=sizes.words + 1,
        n_positions=sizes.max_length + 1,
        n_embd=sizes.width,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )


def reward_model(policy: CausalPolicy, rng: torch.Generator) -> SequenceReward:
    """A scalar head on a copy of the policy's body."""
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    model = GPT2ForSequenceClassification(config)
    model.transformer.load_state_dict(policy.model.base_model.state_dict())
    nn.init.normal_(model.score.weight, std=0.02, generator=rng)
    return SequenceReward(model)


def norm_of(tokens: TokenBatch) -> LossNorm:
    return LossNorm(
        tokens=int(tokens.response_mask.sum()),
        sequences=len(tokens),
        groups=len(tokens.group.unique()),
    )


def minibatches(
    batch: TrainBatch, *, size: int, rng: torch.Generator
) -> Iterator[tuple[TrainBatch, LossNorm]]:
    """One pass in random order over groups of equal size, about ``size`` rows at a time."""
    groups = batch.tokens.group.unique_consecutive(return_counts=True)[1]
    each = int(groups[0])
    for picked in torch.randperm(len(groups), generator=rng).split(max(size // each, 1)):
        part = batch.take((picked.unsqueeze(-1) * each + torch.arange(each)).flatten())
        yield part, norm_of(part.tokens)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Gradients are clipped to norm 1, as the package does by default."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


def fit(
    model: nn.Module,
    batch: TrainBatch,
    loss: Callable[[TrainBatch, LossNorm], Tensor],
    *,
    passes: int,
    size: int,
    lr: float,
    rng: torch.Generator,
) -> None:
    """Train ``model`` in place by Adam on ``passes`` over the batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(passes):
        for part, norm in minibatches(batch, size=size, rng=rng):
            step(optimizer, loss(part, norm))


def fit_policy(
    policy: CausalPolicy,
    method: PolicyMethod,
    scored: ScoredBatch,
    *,
    passes: int,
    size: int,
    lr: float,
    rng: torch.Generator,
) -> None:
    """``fit`` by a method's targets and loss."""
    batch, _ = method.targets(scored)

    def loss(part: TrainBatch, norm: LossNorm) -> Tensor:
        return method.loss(policy(part.tokens), part, norm).loss

    fit(policy, batch, loss, passes=passes, size=size, lr=lr, rng=rng)


@dataclass(frozen=True)
class Base:
    """The task, and the policy that everything starts from: trained on demonstrations."""

    task: Task
    reference: CausalPolicy
    start: float
    """The reference's mean true reward."""
    best: float

    @classmethod
    def make(cls, sizes: Sizes, seed: int) -> Base:
        task = Task.make(sizes, seed)
        rng = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            policy = CausalPolicy(GPT2LMHeadModel(config(sizes)))
        shown = ScoredBatch(task.demonstrations(sizes.demonstrations, rng), {})
        fit_policy(policy, SFT(), shown, passes=1, size=64, lr=sizes.sft_lr, rng=rng)
        base = cls(task, policy.requires_grad_(False), 0.0, task.best())
        drawn = base.sample(policy, 4096, rng)
        return replace(base, start=float(task.true_reward(drawn).mean()))

    def sample(
        self, policy: CausalPolicy, count: int, rng: torch.Generator, *, each: int = 1
    ) -> TokenBatch:
        prompts = self.task.prompts(count // each, rng)
        return sample(policy, prompts, each=each, max_length=self.task.max_length, rng=rng)

    def score(self, reward: Tensor) -> float:
        """Mean of true rewards [B], where the reference has 0 and the best responses 1."""
        return (float(reward.mean()) - self.start) / (self.best - self.start)
