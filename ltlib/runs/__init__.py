"""Runs: what is trained, its record, and the one function that gives it.

    from ltlib.runs import load_profile, run_or_load, load_records

Each name is loaded from its module when it is first asked for, so that who only reads records loads
nothing that trains.
"""

import importlib

_MODULE_OF = {
    "RunConfig": "config",
    "Pretraining": "config",
    "Profile": "profiles",
    "load_profile": "profiles",
    "Record": "records",
    "load_record": "records",
    "load_records": "records",
    "pick_device": "devices",
    "prepare": "run",
    "weights_for": "run",
    "features": "run",
    "run_or_load": "run",
    "load_model": "trained",
    "classify": "trained",
    "stored_features": "trained",
    "load_logits": "trained",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
