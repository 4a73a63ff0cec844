"""Small runs of the digits."""

import dataclasses

from ltlib.runs import load_profile


def smoke_config(loss="softmax", train_set="longtailed", profile=None, **recipe):
    """A run of profile "smoke" (fine-tuning, one step) with another recipe."""
    profile = profile or load_profile("smoke")
    config = profile.config("resnetv2_small32", loss, train_set, 0, "thesis")
    return dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, **recipe))


def scratch_config(loss, *, options=(), protocol=None, **recipe):
    """A run of two epochs from fresh weights on few images."""
    config = smoke_config()
    few = {"max_count": 10, "imbalance_factor": 5.0, "val_per_class": 2, "test_per_class": 10}
    return dataclasses.replace(
        config,
        mode="scratch",
        pretraining=None,
        loss=loss,
        head="",
        loss_options=tuple(dict(options).items()),
        protocol=dataclasses.replace(config.protocol, **{**few, **(protocol or {})}),
        recipe=dataclasses.replace(config.recipe, **{"epochs": 2, "milestones": (), **recipe}),
    )
