"""VeSSAL: one pass over the pool, each example accepted with a probability of what it adds to those accepted before."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from al_ray.core.one_pass import BLOCK_ROWS, GradientEmbedding, OnePassSelector
from al_ray.core.seeding import tie_keys
from al_ray.core.types import IntArray, PoolView, Ranking
from al_ray.registry import Within
from al_ray.strategy import QueryStrategy, strategies


@strategies.register("vessal")
@dataclass(frozen=True)
class Vessal(QueryStrategy):
    """A diverse and unsure sample in one pass: unlike what was accepted before, and with much to learn from.

    Volume sampling for streaming active learning (Saran et al. 2023, arXiv 2303.02535) over BADGE's gradient
    embeddings, see :class:`al_ray.core.one_pass.OnePassSelector`, which ``al-ray choose`` runs over pools beyond
    memory. An example that was passed over stays so for the round. The stream has the order of a hash of id and round.

    Deviation: embeddings of more than ``n_dimensions`` are projected at random, anew in every round.
    Deviation: several draws are averaged to one p.

    Attributes:
        n_dimensions: width of the embeddings at most; classes x features or more: the gradients as they are. Work
            grows with its square.
    """

    source: ClassVar[str] = "Saran et al. 2023, arXiv 2303.02535"
    needs_features: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    n_dimensions: Annotated[int, Within(ge=1, le=8192, advice="512 takes seconds for 100,000 examples.")] = 512

    def pick(self, pool: PoolView, ranking: Ranking, n: int, stream: np.random.Generator) -> IntArray:
        """Return ``n`` ids in the order of the stream, then those that fill a short query at random."""
        assert pool.features is not None, "vessal needs PoolView.features"
        order = np.argsort(tie_keys(pool.ids, int(stream.integers(2**62))))
        probs = pool.probs()
        embed = GradientEmbedding.draw(pool.n_classes, pool.features.shape[1], self.n_dimensions, stream)
        selector = OnePassSelector(n, len(pool), embed.n_dimensions, stream)
        for start in range(0, len(order), BLOCK_ROWS):
            rows = order[start : start + BLOCK_ROWS]
            selector.offer(embed(probs[rows], pool.features[rows]), pool.ids[rows])
        return selector.query
