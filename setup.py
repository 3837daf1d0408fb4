"""Packaging. Pins live in requirements/; `make install` adds the overrides that they need."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

BUILDERS = {
    "rto.cli.builders": (
        "sft dpo ipo ipo_sum rdpo simpo tdpo1 tdpo2 "
        "ppo rto reinforce_pp reinforce_baseline rloo grpo dr_grpo"
    ),
    "rpo_ext.builders": "rpo dro kto reward_aware",
}
METHODS = {name: f"{module}:{name}" for module, names in BUILDERS.items() for name in names.split()}


def pins(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="rto",
    version="0.1.0",
    description="RLHF with token-wise rewards on Ray, vLLM and DeepSpeed",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["rto", "rto.*", "rpo_ext", "rpo_ext.*"]),
    package_data={"rto.evaluation": ["prompts/*.yaml"], "rto.report": ["templates/*"]},
    install_requires=pins("base"),
    extras_require={
        **{name: pins(name) for name in ("cpu", "cuda", "eval")},
        "dev": [*pins("dev"), *pins("eval")],
    },
    entry_points={
        "console_scripts": ["rto = rto.cli.main:main"],
        "rto.methods": [f"{name} = {target}" for name, target in METHODS.items()],
    },
)
