"""The typed configuration of a run, and its parser. The sections have their names here too."""

from importlib import import_module

PARTS = ("data", "training", "methods", "runtime")


def __getattr__(name: str) -> object:
    if name[:1].isupper():
        for part in PARTS:
            found = vars(import_module(f"rto.sections.{part}")).get(name)
            if found is not None:
                return found
    raise AttributeError(name)
