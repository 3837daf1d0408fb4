"""Packaging. Pins live in requirements/; `make install` adds the overrides that openrlhf needs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

METHODS = {
    "rto.methods.settings.sft": {"sft": "SFTSettings"},
    "rto.methods.settings.preference": {
        "dpo": "DPOSettings",
        "ipo": "IPOSettings",
        "ipo_sum": "IPO_SUM",
        "rdpo": "RDPOSettings",
        "simpo": "SimPOSettings",
        "tdpo1": "TDPO1Settings",
        "tdpo2": "TDPO2Settings",
    },
    "rto.methods.settings.policy_gradient": {
        "ppo": "PPOSettings",
        "rto": "RTOSettings",
        "reinforce_pp": "REINFORCE_PP",
        "reinforce_baseline": "REINFORCE_BASELINE",
        "rloo": "RLOO",
        "grpo": "GRPO",
        "dr_grpo": "DR_GRPO",
    },
    "rpo_ext.settings": {
        "rpo": "RPOSettings",
        "dro": "DROSettings",
        "kto": "KTOSettings",
        "reward_aware": "RewardAwareSettings",
    },
}
"""Module -> method -> its settings (docs/extending.md)."""
SHIPPED = ("examples/configs/*.yaml", "ray_jobs/*.yaml", "ray_jobs/*.py")


class BuildWithExamples(build_py):
    """Copies what rto.resources finds into the wheel; a checkout has it where it is."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "rto", "shipped")
        for source in (path for pattern in SHIPPED for path in sorted(ROOT.glob(pattern))):
            copy = target / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def pins(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def version() -> str:
    text = (ROOT / "rto" / "__init__.py").read_text(encoding="utf-8")
    (found,) = re.findall(r'^__version__ = "(.+)"$', text, re.M)
    return found


setup(
    name="rto-rlhf",
    version=version(),
    description="RLHF with token-wise rewards on Ray, vLLM and DeepSpeed",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="rto authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["RLHF", "RTO", "RPO", "PPO", "DPO", "Ray", "vLLM", "DeepSpeed"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["rto", "rto.*", "rpo_ext", "rpo_ext.*"]),
    package_data={
        "rto": ["py.typed"],
        "rpo_ext": ["py.typed"],
        "rto.evaluation": ["prompts/*.yaml"],
        "rto.report": ["templates/*"],
        "rto.sections": ["foreign_flags.yaml"],
    },
    cmdclass={"build_py": BuildWithExamples},
    install_requires=pins("core"),
    extras_require={
        **{name: pins(name) for name in ("cpu", "cuda", "eval", "openrlhf")},
        "dev": [*pins("dev"), *pins("eval")],
    },
    entry_points={
        "console_scripts": ["rto = rto.cli.main:program"],
        "rto.methods": [
            f"{name} = {module}:{target}"
            for module, methods in METHODS.items()
            for name, target in methods.items()
        ],
    },
)
