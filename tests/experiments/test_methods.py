"""One job of the paper's experiments: what it fits, and that it sees no more than it may."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stssad_fast.errors import InputError
from stssad_fast.experiments import methods, plans, problems, settings
from stssad_fast.experiments.problems import Task

SMALL = {"width": 1, "depth": 10, "warm_up": 2, "iterations": 2, "updates": 1, "batch_size": 8}
OPTIONS = (16, 20, 6)


def job(method, given=None, **parameters):
    shared = settings.parameters("semantic", "small", SMALL | parameters)
    for kind in ("autoencoder", "deep_svdd"):
        shared[kind] = shared[kind] | {"width": 1, "epochs": 1}
    parts = plans.semantic("digits", [6], *OPTIONS)
    return plans.plan(parts, [method], [0], shared, ["6/9"])[0]


def work(planned):
    values, arrays = methods.work(planned.config, planned.sources)
    return values, arrays


@pytest.mark.parametrize("method", ["ST-SSAD", "MMD1", "MMD2", "FO", "untuned"])
def test_a_start_leaves_what_the_choice_and_the_figures_need(method):
    planned = job(method)
    values, arrays = work(planned)
    assert values["initial"] == {"angle": pytest.approx(45)}
    assert values["stopped"] == "finished"
    found = values["tests"]["9"]
    assert 0 <= found["auc"] <= 1
    assert np.isfinite([found["score_shift"], found["score_variance"]]).all()
    assert arrays["history/angle"].shape == (2,)
    moves = arrays["history/angle"][1] != arrays["history/angle"][0]
    assert moves == (method != "untuned")
    labels = problems.read("semantic", "digits", planned.config["data"]["options"])
    assert arrays["scores/9"].shape == labels.tests["9"].labels.shape
    assert arrays["embedding/train"].shape[1] == 8
    again, same = work(planned)
    assert again == values
    np.testing.assert_array_equal(same["scores/9"], arrays["scores/9"])


def test_the_tuned_methods_differ():
    """Adam's first steps are all of one length; those of SGD show every gradient."""
    last = {
        method: work(job(method, hyper_optimizer="sgd"))[1]["history/angle"][-1]
        for method in ("ST-SSAD", "FO", "MMD1", "MMD2")
    }
    assert len(set(last.values())) == 4, last


@pytest.mark.parametrize("method", ["RS-RO", "RD-RO", "RS-CD", "RD-CO", "AE", "DeepSVDD"])
def test_a_method_that_is_not_tuned_never_sees_the_test_pictures(method, monkeypatch):
    planned = job(method)
    values, _ = work(planned)
    assert set(values["tests"]) == {str(digit) for digit in range(10) if digit != 6}
    data = planned.config["data"]
    problem = problems.read(data["reader"], "digits", data["options"])
    cut = replace(
        problem, tests={**problem.tests, "0": Task(torch.zeros(4, 1, 16, 16), np.array([0, 1] * 2))}
    )
    monkeypatch.setattr(problems, "read", lambda *given: cut)
    changed = {**planned.config, "data": {**data, "digest": cut.digest()}}
    other, _ = methods.work(changed, planned.sources)
    assert other["tests"]["0"] != values["tests"]["0"]
    assert other["tests"]["9"] == values["tests"]["9"]


def test_random_methods_train_as_long_as_tuned_ones(monkeypatch):
    seen = {}

    class Model:
        def __init__(self, **parameters):
            seen.update(parameters)

        def fit(self, train, test):
            assert test is train
            raise InputError("seen enough")

    monkeypatch.setattr(methods, "STSSAD", Model)
    with pytest.raises(InputError, match="seen enough"):
        work(job("RD-RO", warm_up=7, iterations=5, updates=3))
    assert (seen["warm_up"], seen["iterations"]) == (7 + 5 * 3 - 1, 1)
    assert seen["strategy"] == "random_dynamic"


def test_warm_up_in_epochs_becomes_steps():
    planned = job("ST-SSAD")
    parameters = {**planned.config["parameters"], "warm_up_epochs": 3, "batch_size": 32}
    problem = problems.read("semantic", "digits", planned.config["data"]["options"])
    found = methods._resolved({"parameters": parameters}, problem)
    assert found["warm_up"] == 3 * -(-len(problem.train) // 32)


@pytest.mark.parametrize("method", ["ST-SSAD", "RD-RO", "AE", "DeepSVDD"])
def test_a_detector_that_diverges_is_a_result_and_no_failure(method):
    planned = job(method)
    parameters = {**planned.config["parameters"], "learning_rate": 1e30}
    config = {**planned.config, "parameters": parameters}
    values, arrays = methods.work(config, planned.sources)
    assert values["tests"] == {name: {"auc": None} for name in config["tests"]}
    assert values["stopped"] == "diverged"
    assert arrays == {}


def test_scores_that_are_not_finite_have_diverged_too(monkeypatch):
    planned = job("AE")
    monkeypatch.setattr(methods.AutoEncoder, "anomaly_scores", lambda *_: np.array([0.0, np.inf]))
    assert work(planned)[0]["stopped"] == "diverged"


def test_other_pictures_than_planned_are_refused():
    planned = job("AE")
    changed = {**planned.config, "data": {**planned.config["data"], "digest": "0" * 16}}
    with pytest.raises(InputError, match="have changed since this run was planned"):
        methods.work(changed, planned.sources)
