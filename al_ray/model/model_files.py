"""What the files of a model may say, checked before a library reads them: they choose among code that is installed.

A model folder is data from a stranger. Its weights are safetensors, its configuration and its tokenizer are JSON, and
the classes that read them are those of the installed transformers. Whatever asks for more is refused: code of its own
(``auto_map``), attention kernels that would be fetched from the Hub, other weights than the one file whose hash
identifies the model, quantized weights and adapters. There is no option that allows it.

Links are followed, because the Hub's cache consists of them; a file that is linked to is read in the same way.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from al_ray.errors import ModelError

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
_CONFIG, _TOKENIZER_CONFIG, _ADAPTER = "config.json", "tokenizer_config.json", "adapter_config.json"
# The largest in use are 34 MB (a vocabulary of 256,000); a file beyond this would take gigabytes to read.
MAX_TOKENIZER_BYTES = 256 * 2**20
MAX_CONFIG_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 100_000_000  # as safetensors has it
ATTENTION = (None, "eager", "sdpa")
_ATTENTION_KEYS = frozenset({"attn_implementation", "_attn_implementation", "_attn_implementation_internal"})
_OTHER_WEIGHTS = ("transformers_weights", "quantization_config", "compression_config")
_COUNTS = ("max_position_embeddings", "num_hidden_layers", "pad_token_id")


def check_model_files(name: str, folder: Path) -> None:
    """Refuse a model folder that is incomplete, oversized or broken, or that asks for code which is not installed.

    Raises:
        ModelError: naming the file and what is wrong with it.
    """
    where = f"model {name!r} in {str(folder)!r}"
    if not (folder / _CONFIG).is_file():
        raise ModelError(f"model {name!r}: no config.json in {str(folder)!r}. Save the model with save_pretrained().")
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise ModelError(
            f"model {name!r}: no tokenizer in {str(folder)!r}, looked for {', '.join(TOKENIZER_FILES)}. "
            "Save the tokenizer into the same folder with save_pretrained()."
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"model {name!r}: no {WEIGHTS} in {str(folder)!r}. {_weights_advice(folder)}")
    _check_config(where, _read_settings(where, folder / _CONFIG))
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
    for name in sorted({_CONFIG, *files}):
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            if name in (_CONFIG, _TOKENIZER_CONFIG):
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
    _check_own_code(where, _CONFIG, config)
    for key in _OTHER_WEIGHTS:
        if config.get(key) is not None:
            raise ModelError(
                f"{where}: {_CONFIG} has {key!r}, but al_ray reads {WEIGHTS} and nothing else, in full precision. "
                f"Save the model again without it."
            )
    for key in _COUNTS:
        if not (config.get(key) is None or type(config[key]) is int):
            raise ModelError(f"{where}: {key} in {_CONFIG} is {_shown(config[key])}, it must be a whole number.")


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
