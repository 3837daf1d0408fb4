"""The one place that decides what a secret is, and hides it.

A secret is a value under a telling name (``api_key``, ``DB_PASS``, ``x-api-key: ...``), whatever
stands before the host of a URL, or a text whose form says so (``Bearer ...``, ``sk-...``,
``hf_...``). A reference to an environment variable (``${NAME}``) is none.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
OWN_VARIABLES = (
    "RTO_REWARD_TOKEN",
    "WANDB_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "RAY_AUTH_TOKEN",
)
"""Environment variables with secrets that this program and its libraries read. Code that a user
brings gets none of them."""

_ALWAYS = frozenset({
    "secret", "secrets", "password", "passwords", "passwd", "passphrase", "passcode", "credential",
    "credentials", "apikey", "authtoken", "accesstoken", "accesskey", "secretkey", "privatekey",
    "bearer", "jwt",
})  # fmt: skip
"""Words that make a name a secret's wherever they stand in it."""
_GLUED = ("password", "passwd", "passphrase", "secret", "apikey", "token")
"""Words that do so where another one stands before them without a joint: ``PGPASSWORD``."""
_AT_THE_END = frozenset({
    "key", "keys", "token", "pass", "pwd", "pw", "psk", "auth", "authorization", "sig", "signature",
    "hmac", "cookie", "pat", "sas",
})  # fmt: skip
"""Words that do so at the end of a name."""
_AFTERTHOUGHT = re.compile(r"\d+|v\d+|id|value|old|new|prod|dev|test|read|write|main|backup|base64")
"""What may stand behind the last word: ``TOKEN_1``, ``AWS_ACCESS_KEY_ID``."""
_PLAIN = {
    "key": frozenset({
        "input", "output", "prompt", "chosen", "rejected", "label", "metric", "response", "reward",
        "text", "sort", "cache", "public", "primary", "foreign", "question", "answer", "row",
        "data", "column", "history",
    }),
    "token": frozenset({
        "pad", "eos", "bos", "unk", "sep", "cls", "mask", "stop", "image", "first", "last", "next",
        "special", "per", "each", "end", "start", "every", "one",
    }),
}  # fmt: skip
"""Names of columns and of tokens in a text."""
_ABOUT = frozenset({
    "path", "file", "env", "dir", "folder", "mode", "type", "length", "count", "limit", "name",
    "url", "enable", "enabled", "required", "yaml", "yml", "json", "jsonl", "csv", "parquet", "py",
    "sh", "txt", "md", "html",
})  # fmt: skip
"""A name that ends so tells of a secret's place, not the secret."""
_IN_QUERIES = frozenset({"code", "k", "hash", "otp", "ticket", "session", "sid"})
"""Names that are secrets' in the query of a URL alone."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_REFERENCE = re.compile(r"\$\{(\w+)\}")
_NO_SECRET = re.compile(r"\$\w+|\$\{\w+\}|\$\(.*|\*+|<.*|null|none|true|false", re.IGNORECASE)

_SCHEME = r"\b[A-Za-z][\w+.-]{0,30}://"
_USERINFO = re.compile(rf"(?P<scheme>{_SCHEME})(?P<user>[^\s/?#'\"@]*(?:@[^\s/?#'\"@]+)*)@")
_NAMED = re.compile(
    r"""(?<![\w.-])(?P<name>-{0,2}[A-Za-z][\w.-]{0,80})(?P<between>["']?\s?(?:=|:|%3[dD])\s?)"""
)
_VALUE = re.compile(
    r"""\$\{\w+\} | "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*'
      | (?:(?:Bearer|Basic|Token)\s+)?[^\s&;,'")\]}]+""",
    re.VERBOSE,
)
_FLAG = re.compile(r"(?P<name>--[A-Za-z][\w.-]*)(?P<between>\s+)(?P<value>(?!-)\S+)")
_FORMS = re.compile(
    r"""\b(?:Bearer|Basic)\s+(?!token|auth|cred|\*)[^\s'",;]{6,}
      | \bsk-[\w-]{16,} | \bhf_[A-Za-z0-9]{16,} | \bgh[opsur]_[A-Za-z0-9]{16,}
      | \bgithub_pat_\w{16,} | \bglpat-[\w-]{16,} | \bxox[abprs]-[\w-]{10,} | \bAKIA[0-9A-Z]{16}\b
      | (?<![\w-])(?:-u|--user)[ =][^\s:]+:(?!\d+\b)\S+
      | \bwandb_v\d_\w{16,} | \bAIza[\w-]{30,} | \beyJ[\w-]{8,}\.[\w-]+\.[\w-]+
      | (?:\bbot|\b)\d{6,12}:AA[\w-]{30,} | \bhooks\.slack\.com/services/[\w/]+
      | -----BEGIN[ A-Z]*PRIVATE\ KEY-----[^-]*(?:-----END[ A-Z]*PRIVATE\ KEY-----)?""",
    re.VERBOSE | re.IGNORECASE,
)
_SEGMENT = re.compile(
    r"(?<!/)/(?P<name>[\w-]{2,40})/(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{8,}(?![\w.-])"
)
"""Of a URL's path: a telling name, and behind it a word of letters and digits."""
_URL = re.compile(rf"{_SCHEME}[^\s'\"<>]+")
OUR_HINT = "did you mean "
"""How messages of this program go on behind a name that does not exist."""
_PROSE = frozenset({"key", "keys", "token", "pass", "auth", "secret", "secrets", "signature"})
"""Words that stand before a colon in a sentence too."""


def is_secret_name(name: str) -> bool:
    """Whether what is called so is a secret: any case, words joined by ``-``, ``_`` or capitals."""
    words = [word.lower() for word in _WORDS.findall(name)]
    while words and _AFTERTHOUGHT.fullmatch(words[-1]):
        words.pop()
    if not words or words[-1] in _ABOUT:
        return False
    pairs = {first + second for first, second in zip(words, words[1:], strict=False)}
    if _ALWAYS & {*words, *pairs} or any(map(_is_glued, words)):
        return True
    before = words[-2] if len(words) > 1 else ""
    return words[-1] in _AT_THE_END and before not in _PLAIN.get(words[-1], ())


def _is_glued(word: str) -> bool:
    end = next((end for end in _GLUED if word.endswith(end) and word != end), "")
    return bool(end) and word.removesuffix(end) not in _PLAIN.get(end, ())


def hide(text: str) -> str:
    """The text with ``***`` in place of every secret in it."""
    text = _USERINFO.sub(_without_user, text)
    text = _URL.sub(lambda found: _without_secrets(found[0]), text)
    text = _FORMS.sub(HIDDEN, text)
    return _without_named(_FLAG.sub(_without_flag, text))


def hide_in(value: Any, name: str = "") -> Any:
    """A JSON value, called ``name``, with ``***`` in place of every secret in it."""
    if isinstance(value, Mapping):
        return {key: hide_in(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [hide_in(inner, name) for inner in value]
    if isinstance(value, str):
        secret = is_secret_name(name) and value and not _NO_SECRET.fullmatch(value)
        return HIDDEN if secret else hide(value)
    return value


def hide_words(words: Sequence[str]) -> str:
    """A command line as a shell reads it, without the secrets in it, those in JSON included."""
    shown = [_without_json(word) for word in words]
    for i, (flag, word) in enumerate(zip(words, words[1:], strict=False), start=1):
        if flag.startswith("--") and "=" not in flag and not word.startswith("--"):
            shown[i] = _hidden(flag, shown[i])
    return shlex.join(shown)


def holds_secret(text: str) -> bool:
    return hide(text) != text


def shown_url(url: str) -> str:
    """A URL as messages show it: without credentials and without the values of its query."""
    url = _USERINFO.sub(_without_user, url).partition("#")[0]
    place, mark, query = url.partition("?")
    names = [part.partition("=")[0] for part in query.split("&")]
    shown = hide(place)
    return shown + mark + "&".join(f"{name}={HIDDEN}" for name in names) if query else shown


def filled(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with the values of the environment variables that it names as ``${NAME}``.

    Raises:
        KeyError: a variable that is not set.
    """
    return _REFERENCE.sub(lambda found: environment[found[1]], text)


def without(text: str, *secrets: str | None) -> str:
    """The text without these very values, should a server repeat them, and without any other."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return hide(text)


def _without_json(word: str) -> str:
    """A word of a command line, which may be JSON or hold it behind ``--name=``."""
    flag, equals, rest = word.partition("=")
    name, text = (flag + equals, rest) if word.startswith("--") and equals else ("", word)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return hide(word)
    return name + json.dumps(hide_in(value)) if isinstance(value, dict | list) else hide(word)


def _without_user(found: re.Match[str]) -> str:
    user = found["user"]
    is_plain = found["scheme"].startswith("ssh") and ":" not in user
    secret = user.partition(":")[2] or user
    if is_plain or _NO_SECRET.fullmatch(secret):
        return found[0]
    return f"{found['scheme']}{HIDDEN}@"


def _without_secrets(url: str) -> str:
    parts = re.split(r"([?&;#])", url)
    for i, part in enumerate(parts):
        name, equals, value = part.partition("=")
        name = unquote(name)
        secret = is_secret_name(name) or name.lower() in _IN_QUERIES
        if equals and value and secret and not _NO_SECRET.fullmatch(value):
            parts[i] = f"{name}={HIDDEN}"
    return _SEGMENT.sub(_without_segment, "".join(parts))


def _without_segment(found: re.Match[str]) -> str:
    return f"/{found['name']}/{HIDDEN}" if is_secret_name(found["name"]) else found[0]


def _without_flag(found: re.Match[str]) -> str:
    return found["name"] + found["between"] + _hidden(found["name"], found["value"])


def _without_named(text: str) -> str:
    """``name=value``, ``name: value`` and ``"name": "value"`` without the secrets among them.

    What follows a name that is no secret's may be a name itself, as in ``Error: token=x``.
    """
    parts: list[str] = []
    done = 0
    for found in _NAMED.finditer(text):
        name, start = found["name"], found.end()
        prose = (
            name == "key"
            or text.startswith(OUR_HINT, start)
            or (name.lower() in _PROSE and found["between"] in (": ", " : "))
        )
        value = (
            None if start < done or prose or not is_secret_name(name) else _VALUE.match(text, start)
        )
        if value is not None:
            parts += [text[done:start], _hidden(name, value[0])]
            done = value.end()
    return "".join([*parts, text[done:]])


def _hidden(name: str, value: str) -> str:
    bare = value.strip("'\"")
    if not bare or _NO_SECRET.fullmatch(bare) or not is_secret_name(name):
        return value
    quote = value[0] if value[0] in "'\"" else ""
    return f"{quote}{HIDDEN}{quote}"
