"""Named random streams: the only source of randomness in al_ray.

A stream is named by the cell's seed and by what it is used for, so that a resumed cell draws what it would have drawn,
and adding a consumer never shifts another one.
"""

import hashlib

import numpy as np
import numpy.typing as npt


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for libraries that take a number, such as torch.

    Args:
        seed: the cell's seed.
        *names: what the stream is for, for example ``"round", 7, "finetune"``.
    """
    key = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the numpy generator of a named stream; the same names give the same draws, on any machine."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))


def tie_keys(ids: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """Hash example ids with the seed, to settle ties without favouring a position in the pool.

    SplitMix64 finaliser (Steele, Lea and Flood 2014) over ``id + hash(seed)``: a bijection for a given seed, so that
    two ids never tie.

    Args:
        ids: example ids ``[n]``.
        seed: the cell's seed.

    Returns:
        keys ``[n]``, unique where the ids are.
    """
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64(stream_seed(seed, "ties"))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
