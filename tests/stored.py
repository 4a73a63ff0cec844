"""Made-up records, stored as a run stores its own."""

from ltlib.runs.records import Record, save_record


def results(acc=0.5):
    metrics = {
        "n": 100,
        "acc1": acc,
        "hits": round(100 * acc),
        "loss": 1.0,
        "criterion": 1.0,
        "f1": acc,
        "f1_macro": acc,
    }
    return {
        "curve": [],
        "evaluations": {"last": {"epoch": 1, "sets": {"balanced": metrics}, "per_class": {}}},
    }


def store(config, acc=0.5, status="done"):
    record = Record(
        config.id,
        status,
        config.to_dict(),
        results(acc) if status == "done" else {},
        {},
        "" if status == "done" else "why",
    )
    save_record(config, record)
    return record


def config_of(profile, loss="softmax", train_set="longtailed"):
    return profile.config(profile.backbones[0], loss, train_set, 0, "thesis")
