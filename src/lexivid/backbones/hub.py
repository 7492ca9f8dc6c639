"""The Hugging Face Hub: which names are its own, and what kind of model one of them is.

A model that is in the cache of this machine never touches the network for this; any other asks the Hub once, before
anything is downloaded, so that "unknown" and "no network" can be told apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lexivid.errors import ModelError

_OFFLINE_HINT = 'The model "lite" works offline (pip install "lexivid[lite]").'
_TIMEOUT_S = 10.0
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def is_hub_name(name: str) -> bool:
    """Whether "owner/name" or "owner/name@revision" could be of the Hub; something that lies here is not."""
    source = name.partition("@")[0]
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(name).exists()


def locate(source: str, revision: str | None) -> dict[str, Any]:
    """Where to look for "owner/name": keyword arguments of every call that reads its files.

    Raises:
        ModelError: the Hub has none of that name, it needs a licence agreement, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    where: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        if any(isinstance(try_to_load_from_cache(source, file, revision=revision), str) for file in _WEIGHTS):
            return where | {"local_files_only": True}
        HfApi().model_info(source, revision=revision, timeout=_TIMEOUT_S)
    except GatedRepoError:
        raise ModelError(f"model {source!r} needs a licence agreement on its Hub page and `hf auth login`") from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        where_text = f" (revision {revision!r})" if revision else ""
        raise ModelError(f"unknown model {source!r}{where_text}: the Hugging Face Hub has none of that name") from None
    except Exception as error:  # whatever the HTTP client of the day raises when there is no network
        raise ModelError(
            f"model {source!r} is not on this machine and the Hugging Face Hub cannot be reached "
            f"({type(error).__name__}). With a network, fetch it by `hf download {source}`, or copy its folder here "
            f"and name that. {_OFFLINE_HINT}"
        ) from error
    return where


def commit_of(source: str, revision: str | None = None) -> str | None:
    """The commit of "owner/name" that was loaded, by the cache of this machine, which names each state by it; None: it
    is no model of the Hub. (What transformers says of it in a configuration comes and goes with its releases.)
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(source).exists():
        return None
    try:
        cached = try_to_load_from_cache(source, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None


def hub_config(name: str) -> dict[str, Any]:
    """config.json of "owner/name[@revision]"; {} where that has none.

    Raises:
        ModelError: as `locate`.
    """
    from huggingface_hub import hf_hub_download

    source, _, revision = name.partition("@")
    where = locate(source, revision or None)
    try:
        config = json.loads(Path(hf_hub_download(source, "config.json", **where)).read_text(encoding="utf-8"))
    except Exception:  # no such file; whoever loads the model says what is missing
        return {}
    return config if isinstance(config, dict) else {}
