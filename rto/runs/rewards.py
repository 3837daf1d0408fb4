"""The reward sources of a run, as its settings name them."""

from __future__ import annotations

import os

from rto.cluster.scorer import RewardSources, TextReward
from rto.data.templates import Template
from rto.models.load import load_config, reward_constants
from rto.scoring.function import RewardFunction
from rto.scoring.http import RemoteReward
from rto.sections.run_config import RunConfig
from rto.sections.training import Reward


def reward_sources(config: RunConfig, template: Template) -> RewardSources:
    """The sources of ``reward``'s settings, for responses that end as ``template``'s do."""
    reward = config.reward
    constants = [
        reward_constants(load_config(path), path=path) if reward.normalize_enable else (0.0, 1.0)
        for path in reward.model_name_or_path
    ]
    texts: list[tuple[str, TextReward]] = []
    if reward.func_path is not None:
        texts.append((reward.func_path, reward_function(reward, reward.func_path)))
    token = os.environ.get(reward.remote_token_env)
    for url in reward.remote_url:
        remote = RemoteReward(
            url,
            token=token,
            timeout=reward.remote_timeout,
            batch_size=reward.remote_batch_size,
            concurrency=reward.remote_concurrency,
            on_failure=reward.on_failure,
        )
        texts.append((remote.name, remote))
    return RewardSources(
        normalise=constants,
        texts=texts,
        weights=reward.weights or [1.0] * reward.num_sources,
        model_names=reward.model_name_or_path,
        ends=template.token_texts(template.stop_token_ids),
        rows_per_step=config.train.batch_size,
    )


def reward_function(reward: Reward, path: str) -> RewardFunction:
    """The function of a file, under the limits of ``reward``."""
    return RewardFunction(
        path,
        timeout=reward.func_timeout,
        memory_gib=reward.func_memory_gib,
        hidden=[reward.remote_token_env],
    )
