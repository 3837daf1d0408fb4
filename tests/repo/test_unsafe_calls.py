"""Nothing in the packages runs what a file, a server or a model says."""

from __future__ import annotations

import pytest
from unsafe_calls import ROOT, sources, unsafe

ALLOWED: dict[str, str] = {}
"""File and call -> why it is safe there."""


def test_the_packages_have_none_but_those_with_a_reason() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {what}": line
        for path in sources()
        for line, what in unsafe(path.read_text(encoding="utf-8"))
    }
    assert {place: line for place, line in found.items() if place not in ALLOWED} == {}
    assert ALLOWED.keys() <= found.keys(), "a reason that holds no more"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import torch\ntorch.load(x)", "torch.load without weights_only=True"),
        ("from torch import load as l\nl(x, weights_only=y)", "torch.load without"),
        ("f(x, weights_only=False)", "weights_only=False"),
        ("import pickle as p\np.loads(x)", "pickle.loads"),
        ("from cloudpickle import load\nload(x)", "cloudpickle.load"),
        ("eval(x)", "eval"),
        ("exec(x)", "exec"),
        ("import os\nos.system(x)", "os.system"),
        ("subprocess.run(x, shell=True)", "shell=True"),
        ("import yaml\nyaml.load(x)", "yaml.load"),
        ("A.from_pretrained(x, trust_remote_code=True)", "trust_remote_code=True"),
    ],
)
def test_each_is_found(source: str, what: str) -> None:
    (found,) = (told for _, told in unsafe(source))
    assert found.startswith(what)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(x, weights_only=True)",
        "model.eval()",
        "import json\njson.load(x)",
        "import yaml\nyaml.safe_load(x)",
        "loader.exec_module(module)",
        "f(trust_remote_code=False, shell=False)",
    ],
)
def test_what_is_safe_is_left_alone(source: str) -> None:
    assert list(unsafe(source)) == []
