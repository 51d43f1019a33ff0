"""The plan of an experiment: which jobs there are, in which order, and what tells them apart."""

from collections import Counter

import pytest

from stssad_fast import STSSAD
from stssad_fast.baselines import AutoEncoder, DeepSVDD
from stssad_fast.errors import InputError
from stssad_fast.experiments import jobs, plans, settings

METHODS = ["AE", "RD-RO", "ST-SSAD"]
PARTS = plans.semantic("digits", [2, 6], 16, 20, 10)
PARAMETERS = settings.parameters("semantic", "small", {})


def plan(**given):
    return plans.plan(
        **{"parts": PARTS, "methods": METHODS, "seeds": range(2), "parameters": PARAMETERS} | given
    )


def test_tuned_methods_have_a_job_for_every_task_and_start_and_others_one_for_all_tasks():
    jobs = plan()
    assert Counter(job.config["method"] for job in jobs) == {
        "AE": 2 * 2,
        "RD-RO": 2 * 2,
        "ST-SSAD": 2 * 2 * 9 * 4,
    }
    assert len({job.key for job in jobs}) == len(jobs)
    (job,) = (j for j in jobs if j.label == "6/9 · ST-SSAD · angle 135 · seed 1")
    assert job.config["tests"] == ["9"]
    assert job.config["start"] == {"angle": 135.0}
    assert job.config["parameters"]["augmentation"] == "rotation"
    untuned = next(job for job in jobs if job.config["method"] == "AE")
    assert untuned.config["tasks"]["0"] == "2/0"
    assert len(untuned.config["tests"]) == 9


def test_seeds_are_outermost_so_that_an_unfinished_run_has_whole_rows():
    seeds = [job.config["seed"] for job in plan()]
    assert seeds == sorted(seeds)


def test_starts_can_be_chosen():
    given = settings.parameters("semantic", "small", {"starts": [{"angle": 10.0}]})
    jobs = plan(methods=["ST-SSAD"], parameters=given, seeds=[0])
    assert [job.config["start"] for job in jobs] == [{"angle": 10.0}] * 18


def test_chosen_tasks_keep_what_serves_them():
    jobs = plan(tasks=["6/9"], seeds=[0])
    assert Counter(job.config["method"] for job in jobs) == {"AE": 1, "RD-RO": 1, "ST-SSAD": 4}
    assert len(plan(seeds=[0], methods=["AE"])[0].config["tests"]) == 9


def test_what_is_unknown_is_refused_with_the_choices():
    with pytest.raises(InputError, match=r"no method XX; choose from AE, DeepSVDD"):
        plan(methods=["XX"])
    with pytest.raises(InputError, match=r"no task 6/11; choose from 2/0, 2/1"):
        plan(tasks=["6/11"])
    with pytest.raises(InputError, match="experiments do not set verbosity"):
        settings.parameters("defects", "small", {"verbosity": 3})


def test_what_would_be_one_number_of_the_table_is_not_planned_twice():
    with pytest.raises(InputError, match="2/0 · AE is planned twice; name every method"):
        plan(methods=["AE", "AE"])
    with pytest.raises(InputError, match="2/0 · AE is planned twice"):
        plan(parts=[PARTS[0], PARTS[0]])
    twice = settings.parameters("semantic", "small", {"starts": [{"angle": 10.0}] * 2})
    with pytest.raises(InputError, match="2/0 · ST-SSAD is planned twice"):
        plan(methods=["ST-SSAD"], parameters=twice)


@pytest.mark.parametrize(
    "given",
    [
        {"width": "wide"},
        {"iterations": 0},
        {"learning_rate": float("nan")},
        {"starts": 5},
        {"starts": []},
        {"starts": [5]},
        {"starts": {"size": 0.1}},
        {"starts": [{"zise": 0.1}]},
        {"starts": [{"size": "small"}]},
        {"starts": [{"size": float("nan")}]},
        {"starts": [{"angle": float("inf")}]},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused_before_any_job(given):
    with pytest.raises(InputError, match=f"{next(iter(given))}|not JSON compliant"):
        settings.parameters("defects", "small", given)


def test_a_method_that_does_not_go_with_the_parameters_is_refused():
    given = {"validation_distance": "shift", "validation_norm": "running"}
    shift = settings.parameters("semantic", "small", given)
    assert plan(methods=["ST-SSAD", "MMD1"], parameters=shift)
    with pytest.raises(InputError, match=r"method FO cannot be planned .* 'first_order'"):
        plan(methods=["ST-SSAD", "FO"], parameters=shift)


def test_no_task_at_all_is_refused():
    with pytest.raises(InputError, match="no task is chosen"):
        plan(tasks=[])


def test_pictures_are_read_once_for_all_seeds(monkeypatch):
    read, count = plans.problems.read, Counter()

    def counted(*arguments):
        count["read"] += 1
        return read(*arguments)

    monkeypatch.setattr(plans.problems, "read", counted)
    plan()
    assert count["read"] == len(PARTS)


def test_the_papers_preset_is_appendix_c():
    tuned = settings.parameters("semantic", "paper", {})["tuned"]
    expected = {"batch_size": 256, "warm_up_epochs": 40, "updates": 5, "iterations": 100}
    assert tuned | expected == tuned
    assert (tuned["depth"], tuned["width"]) == (18, 64)
    assert (tuned["parametrization"], tuned["hyper_optimizer"]) == ("cholesky", "sgd")
    assert not tuned["unit_embedding"]
    assert tuned["hyper_learning_rate"] == 2.0  # radians; a patch's entries of L take 0.05
    assert settings.parameters("defects", "paper", {})["tuned"]["hyper_learning_rate"] == 0.05


def test_the_papers_deep_svdd_has_its_own_width():
    found = settings.parameters("semantic", "paper", {})
    assert (found["deep_svdd"]["width"], found["autoencoder"]["width"]) == (32, 64)
    assert settings.parameters("semantic", "small", {})["deep_svdd"]["width"] == 4


def test_warm_up_is_in_steps_or_in_epochs():
    names = {"warm_up", "warm_up_epochs"}
    for preset, given, expected in (
        ("paper", {}, {"warm_up_epochs": 20}),
        ("paper", {"warm_up": 3}, {"warm_up": 3}),
        ("small", {}, {"warm_up": 60}),
        ("small", {"warm_up_epochs": 2}, {"warm_up_epochs": 2}),
    ):
        tuned = settings.parameters("defects", preset, given)["tuned"]
        assert {name: tuned[name] for name in names & set(tuned)} == expected
    with pytest.raises(InputError, match="both given"):
        settings.parameters("defects", "small", {"warm_up": 3, "warm_up_epochs": 2})
    for value in (0, 1.5, "two", True, None, 10**6 + 1):
        with pytest.raises(InputError, match="warm_up_epochs is"):
            settings.parameters("defects", "small", {"warm_up_epochs": value})


def test_a_backbone_takes_the_place_of_the_resnet_in_every_trained_method():
    found = settings.parameters("defects", "small", {}, "efficientnet_lite0")
    for kind in ("tuned", "random"):
        assert found[kind]["backbone"] == "efficientnet_lite0"
        assert not {"depth", "width"} & set(found[kind])


@pytest.mark.parametrize(
    ("kind", "estimator", "defaults"),
    [
        ("tuned", STSSAD, {"patience": None, "precision": "float32", "validation": "batch"}),
        (
            "autoencoder",
            AutoEncoder,
            {
                "hidden": 256,
                "learning_rate": 0.001,
                "augmentation": "identity",
                "augmentation_settings": None,
                "weight_decay": 0.0,
            },
        ),
        ("deep_svdd", DeepSVDD, {"hidden": 128, "learning_rate": 0.0001}),
    ],
)
def test_defaults_that_no_key_holds(kind, estimator, defaults):
    """Whoever changes one has to change jobs.FORMAT too, else old jobs pass for new ones."""
    elsewhere = {"strategy", "starts", "validation_distance", "jitter", "iterate_selection"}
    elsewhere |= {"backbone", "random_state"}
    no_matter = {"device", "n_jobs", "distributed", "graph", "recompute"}
    no_matter |= {"selection", "ensemble", "contamination"}  # a job is of one start
    left = estimator().get_params()
    for name in (*PARAMETERS[kind], *elsewhere, *no_matter):
        left.pop(name, None)
    assert (jobs.FORMAT, left) == ("stssad_fast job 1", defaults)
