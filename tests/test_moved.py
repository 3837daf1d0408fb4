"""Imports by former names of modules still work, and say what the name is now."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

import rto.sections
from rto.moved import MOVED
from rto.sections.data import Data
from rto.sections.runtime import VLLM


@pytest.mark.parametrize("former", ["rto.config", "rto.data.prompts", "rto.cli.parse"])
def test_a_former_name_is_the_module_of_today(former: str) -> None:
    sys.modules.pop(former, None)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {MOVED[former]}"):
        found = importlib.import_module(former)
    assert found is importlib.import_module(MOVED[former])


def test_every_former_name_leads_to_a_module() -> None:
    for name in MOVED.values():
        assert importlib.util.find_spec(name) is not None, name
    for name in MOVED:
        assert name not in MOVED.values()


def test_names_of_sections_and_names_that_never_were() -> None:
    code = (
        "from rto.sections import Data; from rto.data.sft import load_examples; import rto.config"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert rto.sections.Data is Data
    assert rto.sections.VLLM is VLLM
    with pytest.raises(AttributeError):
        rto.sections.Nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("rto.data.never_was")
