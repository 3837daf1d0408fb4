"""Send the output of libraries to files under ``logs/`` instead of the console."""

from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path

from rto.secrets import hide

LIBRARIES = (
    "ray",
    "vllm",
    "DeepSpeed",
    "transformers",
    "datasets",
    "huggingface_hub",
    "accelerate",
    "peft",
    "bitsandbytes",
    "httpx",
    "torch",
    "wandb",
    "reward_func",
)
QUIET_ENV = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_SILENT": "true",
}
_LINES_AND_DIRECTION = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


class _FileLogger(logging.Logger):
    """Takes file handlers only: libraries add a console handler to their logger at import."""

    def addHandler(self, hdlr: logging.Handler) -> None:
        if isinstance(hdlr, logging.FileHandler):
            super().addHandler(hdlr)


class _WithoutSecrets(logging.Formatter):
    """An HTTP library logs the URL that it asks, query and all."""

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


def quiet(logs: Path | None) -> None:
    """Send the libraries' loggers and Python's warnings to one file each in ``logs``, or nowhere.

    Call it before the libraries are imported: they read ``QUIET_ENV`` then. A variable that the
    user has set stays.
    """
    for name, value in QUIET_ENV.items():
        os.environ.setdefault(name, value)
    logging.captureWarnings(True)
    for name in (*LIBRARIES, "py.warnings"):
        _redirect(_file_logger(name), None if logs is None else logs / f"{name}.log")


def escape_control(text: str) -> str:
    r"""Model text made safe for a terminal: control and direction characters become \x1b, \u202e.

    Line breaks and tabs stay.
    """
    return "".join(_escaped(char) if _hostile(char) else char for char in text)


def _hostile(char: str) -> bool:
    if char in "\n\t":
        return False
    return char in _LINES_AND_DIRECTION or unicodedata.category(char) in ("Cc", "Cs")


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _file_logger(name: str) -> logging.Logger:
    default = logging.getLoggerClass()
    logging.setLoggerClass(_FileLogger)
    try:
        return logging.getLogger(name)
    finally:
        logging.setLoggerClass(default)


def _redirect(logger: logging.Logger, path: Path | None) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if isinstance(handler, logging.FileHandler):
            handler.close()
    handler = logging.NullHandler()
    if path is not None:
        handler = logging.FileHandler(path, delay=True, encoding="utf-8")
        handler.setFormatter(_WithoutSecrets(_FORMAT))
    logger.handlers.append(handler)
    logger.propagate = False
