"""Jobs of the study: which there are, and what one of each detector leaves."""

from collections import Counter

import numpy as np
import pytest
import torch

from stssad_fast.augment.catalogue import Named
from stssad_fast.errors import InputError
from stssad_fast.experiments import study, testbeds
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.study import DETECTORS, PRESETS, Comparison
from stssad_fast.experiments.testbeds import IDENTITY

PARTS = testbeds.testbeds("digits", [2, 6], 16, 20, 10, ["flip", "invert"])
ONE = PARTS[:1]
FLIP, GEOM = Named("flip"), Named("geom")
TINY = {
    "DAE": {"width": 1, "hidden": 4, "epochs": 1, "batch_size": 64},
    "DeepSAD": {"width": 1, "hidden": 4, "epochs": 1, "batch_size": 64},
    "AP": {
        "depth": 10,
        "widen": 1,
        "classes_per_picture": 2,
        "views": 2,
        "views_per_batch": 64,
    },
}
KEYS = {
    "small": [
        "73dc6dfe71e9a6b4cf70d59a0258214b",
        "2bab9da5349dac1b767123f48494bae9",
        "56802cdebac47e0049fe6dd7b1e468cb",
    ],
    "paper": [
        "5b1506cb3da1eb743c30812acd659765",
        "8b134befe97695f2c2bf125d20dd41ba",
        "2590ceb0e8f678bf69797e2d6ebbe2e4",
    ],
}


def test_every_detector_has_a_job_for_each_augmentation_and_training_set():
    jobs = study.plan([Comparison(PARTS, list(DETECTORS), [IDENTITY, FLIP])], [0, 1], TINY)
    assert Counter(job.group for job in jobs) == {"DAE": 8, "DeepSAD": 8, "AP": 4}
    assert not [j for j in jobs if j.group == "AP" and j.config["augmentation"] == "identity"]
    assert [job.config["seed"] for job in jobs] == [0] * 10 + [1] * 10
    classes = {test: f"2/{test}" for test in "013456789"}
    assert jobs[0].config["tasks"] == {"flip": "2 flip", "invert": "2 invert", **classes}


def test_what_comparisons_share_is_done_once():
    squares = [IDENTITY, Named("cutout", {"size": 0.2})]
    parts = [Comparison(ONE, ["DAE"], [IDENTITY, FLIP]), Comparison(ONE, ["DAE"], squares)]
    texts = [job.config["augmentation"] for job in study.plan(parts, [0], TINY)]
    assert texts == ["identity", "flip", "cutout:size=0.2"]


def test_keys_stay_as_they_are():
    """Results of other machines and earlier versions are found by them."""
    comparison = Comparison(ONE, list(DETECTORS), [FLIP])
    for preset, keys in KEYS.items():
        configs = [job.config for job in study.plan([comparison], [0], PRESETS[preset])]
        for config in configs:  # of pictures that every machine makes alike to a rounding only
            config["data"]["digest"] = "0"
        assert [Job(config, "", "").key for config in configs] == keys


@pytest.mark.parametrize("preset", PRESETS)
def test_dae_is_trained_under_sixteen_settings(preset):
    varied = study.HYPERPARAMETERS[preset]
    jobs = study.plan([Comparison(PARTS, ["DAE"], [IDENTITY, FLIP], varied)], [0], PRESETS[preset])
    assert len(jobs) == len({job.key for job in jobs}) == 16 * 2 * 2
    # whole settings first, so that what an interrupted run leaves can be compared
    texts = [study.hyperparameters(job.config) for job in jobs]
    assert texts == [text for text in dict.fromkeys(texts) for _ in range(4)]
    own = [job.config["parameters"] for job in jobs]
    for name, values in varied.items():
        assert Counter(each[name] for each in own) == {value: 32 for value in values}
    kept = PRESETS[preset]["DAE"].keys() - varied.keys()
    assert all(each[name] == PRESETS[preset]["DAE"][name] for each in own for name in kept)
    assert "weight decay 1e-05" in jobs[0].label
    plain = study.plan([Comparison(ONE, ["DAE"], [FLIP])], [0], PRESETS[preset])
    assert [study.hyperparameters(job.config) for job in plain] == [""]


def test_the_settings_are_the_papers_and_in_its_ratio_to_the_small_ones():
    small, paper = study.HYPERPARAMETERS["small"], study.HYPERPARAMETERS["paper"]
    printed = {"epochs": (64, 128), "width": (128, 256), "hidden": (64, 128)}
    assert paper == printed | {"weight_decay": (1e-5, 5e-5)}
    for name in printed:
        ratio = PRESETS["small"]["DAE"][name] / PRESETS["paper"]["DAE"][name]
        assert small[name] == tuple(ratio * value for value in paper[name])
    assert small["weight_decay"] == paper["weight_decay"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_predictor_sees_each_picture_equally_often(preset):
    jobs = study.plan([Comparison(ONE, ["AP"], [FLIP, GEOM])], [0], PRESETS[preset])
    views = PRESETS[preset]["AP"]["views"]
    for job, classes in zip(jobs, (2, 8), strict=True):
        assert job.config["parameters"]["epochs"] * classes == views
        assert "views" not in job.config["parameters"]


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_job_scores_everything_and_gives_the_same_again(detector, monkeypatch):
    monkeypatch.setattr(study, "KEPT", 12)
    (job,) = study.plan([Comparison(ONE, [detector], [FLIP])], [3], TINY)
    values, arrays = study.work(job.config, job.sources)
    again, same = study.work(job.config, job.sources)
    assert values == again
    assert all(np.array_equal(arrays[name], same[name]) for name in arrays)
    assert set(values["tests"]) == {"flip", "invert", *"013456789"}
    assert 0 < values["change"] < 1
    assert arrays["scores/train"].shape == arrays["scores/augmented"].shape
    labels, scores = (arrays[f"{what}/test/flip"] for what in ("labels", "scores"))
    assert values["tests"]["flip"]["normal"] == pytest.approx(scores[labels == 0].mean(), rel=1e-4)
    assert len(arrays["embedding/train"]) == study.KEPT
    assert len(arrays["embedding/anomalous/test/flip"]) == (labels == 1).sum()
    assert ("rebuilt/test/flip" in arrays) == (detector == "DAE")
    if detector == "DAE":
        shown = arrays["shown/test/flip"]
        assert shown.shape == arrays["rebuilt/test/flip"].shape == (2 * study.SHOWN, 1, 16, 16)
        assert labels[arrays["rows/test/flip"]].tolist() == [0] * 4 + [1] * 4


def test_pictures_that_have_changed_are_refused():
    (job,) = study.plan([Comparison(ONE, ["DAE"], [FLIP])], [0], TINY)
    config = {**job.config, "data": {**job.config["data"], "digest": "other"}}
    with pytest.raises(InputError, match="have changed since this run was planned"):
        study.work(config, job.sources)


def test_distances_are_a_job_of_their_own(monkeypatch):
    flat = torch.nn.Flatten()
    monkeypatch.setitem(study.BACKBONES, "flat", lambda: flat)
    (job,) = study.plan_distances(ONE, [IDENTITY, FLIP], "flat")
    values, arrays = study.work(job.config, job.sources)
    assert not arrays
    assert set(values["mmd"]) == {"identity", "flip"}
    assert values["mmd"]["flip"]["flip"] < values["mmd"]["identity"]["invert"]
    with pytest.raises(InputError, match="no encoder vgg; choose from"):
        study.plan_distances(ONE, [FLIP], "vgg")


def test_a_plan_of_nothing_is_refused():
    with pytest.raises(InputError, match="nothing to do"):
        study.plan([Comparison(ONE, ["AP"], [IDENTITY])], [0], TINY)
    with pytest.raises(InputError, match="no detector SVM; choose from DAE, DeepSAD, AP"):
        study.plan([Comparison(ONE, ["SVM"], [FLIP])], [0], TINY)


def test_silhouettes_tell_groups_apart():
    near, far = np.random.default_rng(0).normal(size=(2, 20, 3))
    assert study._silhouette(near, far + 50) > 0.9
    assert abs(study._silhouette(near, far)) < 0.1
    assert study._silhouette(near, far[:1]) is None
    assert study._silhouette(near, far * np.inf) is None


def test_a_detector_that_diverges_is_a_result_and_no_failure():
    wild = {"DAE": {**TINY["DAE"], "learning_rate": 1e30}}
    (job,) = study.plan([Comparison(ONE, ["DAE"], [FLIP])], [3], wild)
    values, arrays = study.work(job.config, job.sources)
    assert values["stopped"] == "diverged"
    assert set(values["tests"]) == set(job.config["tasks"])
    assert arrays == {}
