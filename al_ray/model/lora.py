"""LoRA: low-rank adapters beside linear layers of the encoder, by peft; everything else of it keeps its weights."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from al_ray.errors import ConfigError
from al_ray.model.recipe import Lora

if TYPE_CHECKING:
    from torch import nn

    from al_ray.model.encoder import Network

# The projections of queries and values, by the family of the encoder. Where a family has one projection for all three,
# that one; peft knows some families more.
QUERY_AND_VALUE: Mapping[str, tuple[str, ...]] = {
    "albert": ("query", "value"),
    "bert": ("query", "value"),
    "camembert": ("query", "value"),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "distilbert": ("q_lin", "v_lin"),
    "electra": ("query", "value"),
    "eurobert": ("q_proj", "v_proj"),
    "modernbert": ("Wqkv",),
    "mpnet": ("q", "v"),
    "roberta": ("query", "value"),
    "xlm-roberta": ("query", "value"),
}
_ADAPTER = "default"


def lora_targets(lora: Lora, family: str, linear_layers: Sequence[str]) -> tuple[str, ...]:
    """Return the last parts of the names of the linear layers that get adapters.

    Args:
        lora: the option.
        family: of the encoder, as transformers calls it.
        linear_layers: last parts of the names of the linear layers that it has.

    Raises:
        ConfigError: peft is not installed, the family is not known, or no layer has such a name.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("finetune.lora needs peft, which is not installed here. Run pip install 'al-ray[lora]'.")
    there = f"The linear layers of this encoder are: {', '.join(linear_layers)}"
    if lora.targets != "auto":
        missing = [target for target in lora.targets if target not in linear_layers]
        if missing:
            raise ConfigError(f"finetune.lora has the target {missing[0]!r}, and no linear layer ends so. {there}.")
        return lora.targets
    known = {**_known_to_peft(), **QUERY_AND_VALUE} if family not in QUERY_AND_VALUE else QUERY_AND_VALUE
    found = tuple(target for target in known.get(family, ()) if target in linear_layers)
    if not found:
        raise ConfigError(
            f"finetune.lora does not know which layers of {family} project queries and values; it knows those of "
            f"{', '.join(sorted(QUERY_AND_VALUE))}. Name them as 'targets'. {there}."
        )
    return found


def _known_to_peft() -> dict[str, tuple[str, ...]]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    return {
        family: tuple(targets)
        for family, targets in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.items()
        if not isinstance(targets, str)
    }


def linear_layers_of(encoder: Any) -> dict[str, "nn.Module"]:
    """Return an encoder's linear layers by name, but for its pooler, which is a part of the head."""
    from torch import nn

    return {
        name: part
        for name, part in encoder.named_modules()
        if isinstance(part, nn.Linear) and not name.startswith("pooler")
    }


def kinds_of_linear_layers(encoder: Any) -> tuple[str, ...]:
    """Return the last parts of the names of an encoder's linear layers, by alphabet."""
    return tuple(sorted({name.rpartition(".")[2] for name in linear_layers_of(encoder)}))


def check_room_for_adapters(n_frozen: int, n_left: int) -> None:
    """Make sure that frozen layers leave something to adapt.

    Args:
        n_frozen: lowest layers that are frozen.
        n_left: layers, of whatever kind, that are left.

    Raises:
        ConfigError: none is left.
    """
    if n_left == 0:
        raise ConfigError(
            f"finetune.lora finds no layer to adapt above 'frozen_layers: {n_frozen}'. Freeze fewer layers, or drop "
            "'lora' and train the head alone."
        )


def add_adapters(network: "Network", lora: Lora) -> None:
    """Put adapters into a network whose layers that are frozen are gone; then they and the head alone are trained.

    The pooler of the encoder counts as a part of the head: checkpoints may lack it.

    Raises:
        ConfigError: as :func:`lora_targets`, or no layer with such a name is left.
    """
    encoder = network.model.base_model
    # What only frozen layers read needs no adapter either.
    linear_layers = [name for name, part in linear_layers_of(encoder).items() if part.weight.requires_grad]
    check_room_for_adapters(network.n_frozen, len(linear_layers))
    targets = lora_targets(lora, network.model.config.model_type, kinds_of_linear_layers(encoder))
    names = [name for name in linear_layers if name.rpartition(".")[2] in targets]

    import torch
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    with torch.random.fork_rng(devices=[]):  # what it draws here, the start of every fit draws again
        inject_adapter_in_model(config, encoder, adapter_name=_ADAPTER)
    for name, value in encoder.named_parameters():
        value.requires_grad_(is_adapter(name) or name.startswith("pooler."))


def is_adapter(name: str) -> bool:
    """Say whether a weight belongs to an adapter, by its name."""
    return ".lora_A." in name or ".lora_B." in name


def name_without_adapters(name: str) -> str:
    """Return what a weight is called in an encoder that has no adapters."""
    return name.replace(".base_layer.", ".")


def draw_adapters(model: "nn.Module", seed: int) -> None:
    """Give every adapter its start, as peft does: A uniform within +-1 / sqrt(width), B zero.

    Args:
        model: holds them; without adapters nothing happens.
        seed: of A, drawn on the CPU, so that every device starts from the same values.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_A." in name:
                drawn = torch.empty(value.shape)
                nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
                value.copy_(drawn)
            elif ".lora_B." in name:
                value.zero_()
