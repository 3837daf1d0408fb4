"""The typed configuration of a run, and its parser. The sections have their names here too."""

from importlib import import_module

PARTS = ("data", "training", "methods", "runtime")


def __getattr__(name: str) -> object:
    if name[:1].isupper():
        for part in PARTS:
            section = vars(import_module(f"rto.sections.{part}")).get(name)
            if section is not None:
                return section
    raise AttributeError(name)
