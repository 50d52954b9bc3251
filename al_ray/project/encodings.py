"""Stored encodings of a project's pool: computed once, in parts, so that a kill loses a part at most."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load, save

from al_ray.errors import StorageError
from al_ray.model.encoding import ENCODED_ROWS, Encoding, blocks_of
from al_ray.storage.folder import Folder

if TYPE_CHECKING:
    import torch

_NAME = "encoded"
BLOCKS_OF_A_PART = 8
"""Blocks of texts in one file: 8,192 texts, 12 MiB of a small encoder's embeddings."""


def stored_encoding(
    folder: Folder,
    key: str,
    n_texts: int,
    tokens: Callable[[], pa.Table],
    encoding: Encoding,
    device: "torch.device",
    tell: Callable[[int, int], None],
) -> npt.NDArray[Any]:
    """Return an encoding of all texts, from its files as far as they are there, computed and stored beyond.

    Args:
        folder: of the files.
        key: names the encoding, its texts and their tokens by their content.
        n_texts: of the pool.
        tokens: gives the table of tokens; called only where something has to be computed.
        encoding: what to compute.
        device: where.
        tell: told how many texts of how many are encoded.

    Returns:
        rows as the table's, or one a token where the encoding is of a layer.

    Raises:
        StorageError: the files cannot be read or written.
        ModelError: the model is not on this machine.
    """
    size = BLOCKS_OF_A_PART * ENCODED_ROWS
    starts = range(0, n_texts, size)
    parts: list[npt.NDArray[Any]] = []
    encode = None
    for number, start in enumerate(starts):
        name = f"{key}-{number:04d}-of-{len(starts):04d}.safetensors"
        stored = folder.read(name)
        if stored is None:
            if encode is None:
                table, encode = tokens(), encoding.encoder(device)
            done = list[npt.NDArray[Any]]()
            for block in blocks_of(table.slice(start, size)):
                tell(start + len(done) * ENCODED_ROWS, n_texts)
                done.append(encode(block))
            part = np.concatenate(done)
            folder.write(name, save({_NAME: part}), "an encoding of the texts")
        else:
            part = _array_of(stored, folder.where(name))
        parts.append(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _array_of(data: bytes, where: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = load(data)[_NAME]
    except (SafetensorError, KeyError) as error:
        raise StorageError(f"{where} is damaged: {error}. Delete it; it is computed again.") from None
    return array
