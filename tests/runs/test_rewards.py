from __future__ import annotations

from pathlib import Path

import pytest

from rto.errors import RewardProtocolError
from rto.runs.rewards import reward_function
from rto.sections.training import Reward


def test_a_function_has_the_limits_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_TOKEN", "planted")
    path = tmp_path / "f.py"
    path.write_text(
        "import os, resource\n"
        "def reward_func(queries, prompts, labels):\n"
        "    if queries == ['endless']:\n"
        "        while True: pass\n"
        "    limit, _ = resource.getrlimit(resource.RLIMIT_AS)\n"
        "    return [float(limit), float('SERVER_TOKEN' in os.environ)]\n"
    )
    settings = Reward(func_timeout=1.5, func_memory_gib=2.0, remote_token_env="SERVER_TOKEN")
    function = reward_function(settings, str(path))
    assert function(["a", "b"], ["", ""], ["", ""]) == [2.0 * 2**30, 0.0]
    with pytest.raises(RewardProtocolError, match=r"no answer within reward\.func_timeout 1\.5 s"):
        function(["endless"], [""], [""])
