"""A sentence on each metric. ``tests/report/test_meanings.py`` checks that every metric has one."""

from __future__ import annotations

import functools

from rto.sections.methods import MethodSettings, installed, once_per_path

MEANING = {
    "reward/mean": "Mean reward of the sampled responses.",
    "reward/std": "Standard deviation of the rewards over the sampled responses.",
    "reward/dropped_groups": "Prompts that were drawn and not trained on, because a reward server "
    "failed on them (reward.on_failure); absent if there were none.",
    "reward/clipped_share": "Share of responses whose reward was outside reward.clip_range.",
    "reward/correlation": "Correlation of log π/π_ref and the reward within prompts: does the "
    "policy follow the rewards?",
    "kl/mean": "KL to the reference, nats per token.",
    "kl/sequence": "KL to the reference, nats per response: how far the policy has moved.",
    "kl/coef": "Coefficient of the KL penalty.",
    "return/mean": "Sum of a response's token rewards, KL penalty included: what the update "
    "maximises.",
    "advantage/mean": "Mean advantage of a token, as the policy loss reads it.",
    "advantage/std": "Standard deviation of the tokens' advantages.",
    "response/num": "Responses sampled in the iteration.",
    "response/trained": "Responses that the update trained on.",
    "response/length": "Tokens per response.",
    "response/surprisal": "Mean −log π of a sampled token: estimates the entropy, nats.",
    "response/truncated_share": "Share of responses cut at the length limit.",
    "policy/loss": "Loss of the policy; for clipped policy gradients its level says little.",
    "policy/clip_share": "Share of tokens whose probability ratio was clipped.",
    "policy/approx_kl": "KL from the sampling policy to the updated one, nats per token.",
    "policy/ratio": "Mean probability ratio of the updated policy to the sampling one: near 1.",
    "policy/sampler_outside": "Share of tokens whose importance weight the threshold changed.",
    "policy/sampler_weight": "Mean importance weight that corrects for the engine's log-probs: "
    "near 1.",
    "policy/kl_loss": "KL to the reference as a term of the loss, nats.",
    "policy/entropy": "Entropy of the policy, nats per token: low means that it repeats itself.",
    "policy/log_ratio": "log π/π_ref of a stored response, nats.",
    "policy/grad_norm": "Norm of the policy's gradient before clipping.",
    "policy/lr": "Learning rate of the policy at the last step.",
    "policy/skipped_steps": "Optimizer steps of the policy left out because their loss or gradient "
    "was not finite: 0 is right.",
    "critic/loss": "Half the squared error of the critic's values.",
    "critic/clip_share": "Share of tokens whose clipped value has the larger error.",
    "critic/value": "Mean value that the critic predicts.",
    "critic/explained_variance": "Share of the returns' variance that the critic explains: 1 is "
    "all, 0 is none.",
    "critic/grad_norm": "Norm of the critic's gradient before clipping.",
    "critic/lr": "Learning rate of the critic at the last step.",
    "critic/skipped_steps": "Optimizer steps of the critic left out because their loss or gradient "
    "was not finite: 0 is right.",
    "dpo/sum_mean": "Token rewards that the DPO policy adds to a response, summed: the mean over "
    "responses, after scale and clip.",
    "dpo/sum_std": "Standard deviation over responses of their summed DPO token rewards.",
    "dpo/token_mean": "Mean token reward from the DPO policy, after scale and clip.",
    "dpo/clipped_share": "Share of tokens whose DPO reward was clipped: near 1, the clip decides "
    "instead of DPO.",
    "dpo/to_reward_std_ratio": "Spread of the summed DPO rewards against that of the sentence "
    "reward: above 1, DPO outweighs the reward model.",
    "sampler/lag": "Updates that the policy was ahead of the responses it trained on.",
    "sampler/abs_diff_mean": "Mean |engine − trainer| log-prob per sampled token: 0 is perfect.",
    "sampler/abs_diff_max": "Largest |engine − trainer| log-prob of a sampled token.",
    "sampler/ratio": "Mean probability ratio of trainer to engine: near 1.",
    "sampler/effective_share": "Effective share of the responses if each were weighted by its "
    "probability ratio of trainer to engine: 1 is none lost.",
    "sampler/k1": "KL from engine to trainer, k1 estimate, nats per token: near 0.",
    "sampler/k3": "KL from engine to trainer, k3 estimate, nats per token: near 0.",
    "sync/probe_mean_abs_diff": "Mean |engine − trainer| log-prob on the probe prompts after a "
    "weight sync.",
    "sync/probe_max_abs_diff": "Largest |engine − trainer| log-prob on the probe prompts after a "
    "weight sync.",
    "sft/loss": "Negative log-likelihood of the demonstrations, nats per token.",
    "preference/loss": "Loss of the preference pairs; DPO starts at log 2 = 0.693.",
    "preference/accuracy": "Share of pairs whose chosen response has the higher implicit reward.",
    "preference/margin": "Implicit reward of the chosen response minus that of the rejected one.",
    "preference/chosen": "Implicit reward of the chosen responses.",
    "preference/rejected": "Implicit reward of the rejected responses.",
    "preference/nll": "Negative log-likelihood of the chosen responses, nats per token.",
    "preference/chosen_kl": "KL(π_ref‖π) along the chosen responses, nats per response.",
    "preference/rejected_kl": "KL(π_ref‖π) along the rejected responses, nats per response.",
    "reward_model/loss": "Bradley-Terry loss of the pairs; guessing gives log 2 = 0.693.",
    "reward_model/accuracy": "Share of pairs whose chosen response gets the higher reward.",
    "reward_model/margin": "Reward of the chosen response minus that of the rejected one.",
    "reward_model/chosen": "Reward of the chosen responses.",
    "reward_model/rejected": "Reward of the rejected responses.",
    "reward_model/grad_norm": "Norm of the reward model's gradient before clipping.",
    "reward_model/lr": "Learning rate of the reward model at the last step.",
    "reward_model/skipped_steps": "Optimizer steps of the reward model left out because their loss "
    "or gradient was not finite: 0 is right.",
    "eval/accuracy": "Held-out pairs: share ranked as labelled.",
    "eval/margin": "Held-out pairs: log π/π_ref of the chosen response minus the rejected one's.",
    "eval/mean": "Held-out pairs: mean score of the reward model.",
    "eval/std": "Held-out pairs: standard deviation of the reward model's scores.",
    "eval/nll_per_token": "Held-out rows: negative log-likelihood, nats per token.",
    "eval/log_ratio": "Held-out rows: log π/π_ref of a response, nats.",
    "eval/row_correlation": "Held-out rows: correlation of log π/π_ref and the reward.",
    "eval/reward_correlation": "Held-out rows: that correlation within prompts.",
    "train/mean": "Training pairs: mean score of the reward model.",
    "train/std": "Training pairs: standard deviation of the reward model's scores.",
    "train/accuracy": "Training pairs: share ranked as labelled.",
    "time/generate": "Seconds in which the engines sampled.",
    "time/score": "Seconds in which models put numbers on the responses.",
    "time/update": "Seconds of optimizer steps.",
    "time/sync": "Seconds in which new weights went to the engines.",
    "time/evaluate": "Seconds in which held-out rows were judged.",
    "time/iteration": "Seconds of the iteration.",
    "time/other_share": "Share of the iteration in which no named stage ran.",
    "rate/generate_tokens_per_s": "Tokens sampled per second of generation.",
    "rate/score_tokens_per_s": "Tokens scored per second of scoring.",
    "rate/update_tokens_per_s": "Tokens trained on per second of optimizer steps.",
}
"""Metric -> what it says."""

PREFIXES = {
    "eval/": "Measured on held-out rows.",
    "time/": "Seconds of this part of an iteration.",
    "rate/": "Tokens per second of this part of an iteration.",
    "sampler/": "Engine against trainer, on the sampled tokens.",
}
"""Beginning of a metric that a method of another package logs -> what it says."""


@once_per_path
def meanings() -> dict[str, str]:
    """Metric -> what it means, those of the installed methods included."""
    methods = (x for x in installed().methods.values() if isinstance(x, MethodSettings))
    return functools.reduce(lambda found, each: found | dict(each.metrics), methods, dict(MEANING))


def meaning(key: str) -> str:
    """What the metric means; empty if another package logs it and says nothing of it."""
    begin = f"{key.split('/')[0]}/"
    return meanings().get(key) or PREFIXES.get(begin, "")
