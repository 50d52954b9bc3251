"""The model: a pretrained transformer, fine-tuned and asked in one process; all of torch and transformers is here."""


def import_model_code() -> None:
    """Import torch, transformers and the classifier while a lane starts, not in its first cell."""
    import transformers.models.auto.modeling_auto  # noqa: F401

    from al_ray.model import classifier  # noqa: F401


def import_head_code() -> None:
    """Import the frozen learner alone, which needs no encoder."""
    from al_ray.model import frozen  # noqa: F401
