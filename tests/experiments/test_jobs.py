"""Keys of jobs, and what becomes of whatever they return or raise."""

import json

import numpy as np
import pytest

from stssad_fast.errors import InputError
from stssad_fast.experiments.jobs import Job, attempt

CONFIG = {"task": "blowhole", "start": {"size": 0.01, "ratio": 1.0}, "seed": 0}


def test_the_key_is_the_configuration_alone():
    key = Job(CONFIG, "label", "group").key
    turned = {name: CONFIG[name] for name in reversed(CONFIG)}
    turned["start"] = {"ratio": 1.0, "size": 0.01}
    assert Job(turned, "other", "another", {"folder": "/data"}).key == key
    assert Job(json.loads(json.dumps(CONFIG)), "", "").key == key
    assert Job(CONFIG | {"seed": 1}, "label", "group").key != key
    # Results of other machines and earlier versions are found by it: it must stay as it is.
    assert key == "189f374ea4ceb8d9b81aa8cddcdb1d34"


def test_what_is_no_configuration():
    for value in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            _ = Job({"value": value}, "", "").key


def outcome(result):
    def work(config, sources):
        if isinstance(result, Exception):
            raise result
        return result

    return attempt(work, Job({}, "", ""), 1)


def test_what_is_returned():
    found = outcome(({"auc": np.float64(0.5), "starts": (1, None)}, {"scores": [0.5, 1.5]}))
    assert found.values == {"auc": 0.5, "starts": [1, None]} and found.reason is None
    assert found.arrays["scores"].dtype == np.float64 and found.about["threads"] == 1


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (({"auc": float("inf")}, {}), r"kept as JSON .*None where there is no number"),
        (({"auc": np.float32(0.5)}, {}), r"kept as JSON \(.*float32"),
        ((0.5, {}), "values are a float; expected a dict"),
        (({}, {"names": np.array([object()])}), "array names holds objects"),
        (None, "TypeError"),
        (InputError("no such picture"), "^no such picture$"),
        (KeyError("class"), r"^KeyError: 'class' \(.*test_jobs.py:\d+ in work\)$"),
    ],
)
def test_what_fails(result, reason):
    import re

    found = outcome(result)
    assert found.values is None and not found.arrays
    assert re.search(reason, found.reason), found.reason
