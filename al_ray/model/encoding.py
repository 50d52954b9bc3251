"""Encodings: what a pretrained encoder makes of every text of a pool, computed once for all cells that read it.

Texts are encoded in blocks of rows, each of them the same wherever it is computed, so that the numbers do not depend on
who shares the work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from al_ray.model.source import ResolvedModel, pinned_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Alone, trim_memory

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import Tensor

    from al_ray.model.encoder import Network

ENCODED_ROWS = 1024
"""Texts of one block."""

Encoder = Callable[["pa.Table"], npt.NDArray[Any]]
"""Turns a block of tokens (columns id, label, tokens) into an array whose rows follow the block's."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One encoding of texts: by which model, in which precision, and what of its output.

    Attributes:
        model: name, revision and hashes of the model; where it lies is found anew on every machine.
        init: ``random`` draws the weights instead.
        seed: that they are drawn with; 0 where they are pretrained.
        precision: of the matrix products.
        batch_size: texts a forward pass.
        output: ``mean`` of the last layer over a text's tokens, at unit length; the last layer at the ``first_token``;
            or a number of layers, whose output is kept at every token, in bf16 as bits (uint16).
    """

    model: ResolvedModel
    init: Literal["pretrained", "random"] = "pretrained"
    seed: int = 0
    precision: Literal["float32", "bf16"]
    batch_size: int
    output: Literal["mean", "first_token"] | int

    @property
    def key(self) -> str:
        """What two encodings share that give the same numbers for the same tokens."""
        weights = self.model.sha256[:16] if self.init == "pretrained" else f"random_{self.seed}"
        content = f"{weights}-{self.model.settings_sha256[:16]}"
        return f"{content}-{self.precision}-{self.batch_size}-{self.output}"

    @property
    def content(self) -> dict[str, Any]:
        """What decides the numbers, beside the texts and how many tokens they are cut to, as JSON holds it."""
        drawn = {"init": self.init, "seed": self.seed} if self.init == "random" else {}
        return {
            "weights_sha256": self.model.sha256 if self.init == "pretrained" else None,
            "settings_sha256": self.model.settings_sha256,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "output": self.output,
            **drawn,
        }

    def encoder(self, device: "torch.device") -> Encoder:
        """Load the model and return the function that encodes a block.

        Raises:
            ModelError: the model is not on this machine, or has other content here.
        """
        network = self._network(device)

        def encode(block: "pa.Table") -> npt.NDArray[Any]:
            encoded = _encode(network, TokenizedSplit.from_table(block), self.output, self.batch_size, device)
            trim_memory(device)  # batches of ever new shapes leave holes, which grew to 2.5 GiB for 30,000 texts
            return encoded

        return encode

    def _network(self, device: "torch.device") -> "Network":
        import torch

        from al_ray.model.encoder import build_network, load_weights

        model = self.model
        found = pinned_model(model.name, model.revision, model.sha256, model.settings_sha256)
        network = build_network(found, 2, device)
        load_weights(network, found, self.init, self.seed)
        if self.precision == "bf16":
            network = network.to(torch.bfloat16)
        return network.eval().requires_grad_(False)


def _encode(
    network: "Network", texts: TokenizedSplit, output: str | int, batch_size: int, device: "torch.device"
) -> npt.NDArray[Any]:
    from al_ray.model.packed import TokenBatch
    from al_ray.model.predict import Batches, hidden_states, run_batches

    if isinstance(output, int):
        return hidden_states(network, texts, n_layers=output, batch_size=batch_size, device=device)

    def forward(batch: TokenBatch, index: int) -> "Mapping[str, Tensor]":
        return {"features": network.embed(batch) if output == "mean" else network.encode(batch, "first_token")}

    widths = {"features": network.n_features}
    batches = Batches(texts, np.arange(len(texts)), forward, widths, batch_size=batch_size, device=device)
    return run_batches(batches, len(texts), Alone(device))["features"]


def encode_table(table: "pa.Table", encode: Encoder) -> npt.NDArray[Any]:
    """Encode all rows of a table of tokens, a block after the other."""
    return np.concatenate([encode(block) for block in blocks_of(table)])


def blocks_of(table: "pa.Table") -> "list[pa.Table]":
    """Cut a table into blocks of :data:`ENCODED_ROWS` rows, at least one, without a copy."""
    return [table.slice(start, ENCODED_ROWS) for start in range(0, max(table.num_rows, 1), ENCODED_ROWS)]
