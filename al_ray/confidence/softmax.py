"""Softmax of the logits: the baseline of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

from al_ray.confidence import ConfidenceMethod, confidences


@confidences.register("softmax")
@dataclass(frozen=True)
class Softmax(ConfidenceMethod):
    """Plain softmax probabilities (Gonsior et al. 2022, arXiv 2210.03005, the baseline)."""

    source: ClassVar[str] = "Gonsior et al. 2022, arXiv 2210.03005 (baseline)"
