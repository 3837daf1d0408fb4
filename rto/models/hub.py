"""Whether the Hugging Face hub has a model, asked without loading it."""

from __future__ import annotations

import os

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from rto.errors import UserError, foreign

HUB_SECONDS = 5.0
"""How long the hub may take to say whether it has a model."""


def require_on_hub(name: str, path: str) -> None:
    """Refuse ``path``, the value of the setting ``name``, where it is no model's id.

    Raises:
        UserError: it is not in this machine's cache, and the hub does not have it or does not
            answer.
    """
    with foreign(f"{name}: {path}: no such directory, and as a hub id"):
        cached = try_to_load_from_cache(path, "config.json")
    if isinstance(cached, str):
        return
    here = f"{name}: {path}: no such directory here, and not in the hub's cache"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(f"{here}; HF_HUB_OFFLINE is set")
    with foreign(f"{here}; the hub", "check the name and the connection"):
        try:
            get_hf_file_metadata(hf_hub_url(path, "config.json"), timeout=HUB_SECONDS)
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise UserError(
                f"{here}; the hub has no such model, or you may not read it: check the name, "
                "`hf auth login`"
            ) from error
