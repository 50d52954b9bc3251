"""What a process can do for its cells before it has one."""


def import_model_code() -> None:
    """Import torch, transformers and the classifier while a lane starts, not in its first cell."""
    import transformers.models.auto.modeling_auto  # noqa: F401

    from al_ray.model import classifier  # noqa: F401
