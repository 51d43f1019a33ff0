"""The validation loss over all test pictures: two sweeps give what one graph of all would give."""

import pytest
import torch
from torch.func import functional_call

from stssad_fast import CutDiff
from stssad_fast.ops import mean_distance_loss
from stssad_fast.tuning.hypergradient import bilevel_step
from stssad_fast.tuning.shift import shift_loss
from stssad_fast.tuning.tuner import Tuner, TunerConfig
from stssad_fast.tuning.validation import loss_over_all

EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture
def problem(make_detector, pictures):
    """Detector, theta, a, and the direct loss over the whole test set, in float64."""
    detector = make_detector(activation=torch.nn.Tanh).double().eval()
    train, test = (images.double() for images in pictures)
    theta = {k: v.detach().clone() for k, v in detector.named_parameters()}
    cutdiff = CutDiff(0.05, 1.5, 20.0).double()
    a = {k: v.detach().clone() for k, v in cutdiff.named_parameters()}

    def augment(hyperparameters):
        generator = torch.Generator().manual_seed(0)
        return functional_call(cutdiff, hyperparameters, (train,), {"generator": generator})

    def embed(parameters, images):
        return functional_call(detector, parameters, (images,))[0]

    def inner(parameters, hyperparameters):
        both = torch.cat([train, augment(hyperparameters)])
        logit = functional_call(detector, parameters, (both,))[1]
        return torch.nn.functional.softplus(torch.cat([logit[:12], -logit[12:]])).mean()

    def direct(parameters, hyperparameters):
        images = (train, augment(hyperparameters), test)
        return mean_distance_loss(*(embed(parameters, part) for part in images))

    def swept(parameters, hyperparameters):
        made = augment(hyperparameters)
        return loss_over_all(embed, parameters, train, made, lambda: test.split(4))  # 4, 4, 1

    return theta, a, inner, direct, swept


def test_value_and_gradient(problem):
    theta, a, _, direct, swept = problem
    theta, a = ({k: v.requires_grad_() for k, v in part.items()} for part in (theta, a))
    expected, found = direct(theta, a), swept(theta, a)
    torch.testing.assert_close(found, expected, **EXACT)
    wanted = [*theta.values(), *a.values()]
    for mine, yours in zip(
        torch.autograd.grad(found, wanted, materialize_grads=True),
        torch.autograd.grad(expected, wanted, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, yours, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(swept(theta, a), expected, **EXACT)


def test_hypergradient(problem):
    theta, a, inner, direct, swept = problem
    one, other = (
        bilevel_step(inner, loss, theta, a, learning_rate=0.5) for loss in (direct, swept)
    )
    assert max(v.abs().max() for v in one.gradient.values()) > 1e-4
    for name in a:
        torch.testing.assert_close(other.gradient[name], one.gradient[name], **EXACT)
    torch.testing.assert_close(other.validation_loss, one.validation_loss, **EXACT)


def test_what_has_diverged_is_not_a_number(problem):
    theta, a, _, _, swept = problem
    theta["body.0.weight"] = theta["body.0.weight"] * torch.nan
    assert swept({k: v.requires_grad_() for k, v in theta.items()}, a).isnan()


def distance(kind, *sets):
    """``L_val`` of a tuner."""
    tuner = object.__new__(Tuner)
    tuner.config = TunerConfig(validation_distance=kind)
    return tuner._distance(torch.cat(sets), [len(rows) for rows in sets]).item()


def test_the_shift_is_of_training_and_test_pictures(generator):
    train, augmented, test = (torch.randn(n, 3, generator=generator) for n in (6, 4, 8))
    assert distance("shift", train, augmented, test) == shift_loss(train, test).item()


def test_the_spread_of_the_augmented_counts_in_the_distance_but_not_with_their_centroid(generator):
    """Total distance normalisation rewards an augmentation for scattering; the option does not."""
    train, around, test = (
        torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (6, 4, 8)
    )
    near, far = (2 + width * torch.cat([around, -around]) for width in (0.1, 3.0))

    def loss(kind, augmented):
        return distance(kind, train, augmented, test)

    assert loss("mean_distance", far) < 0.8 * loss("mean_distance", near)
    assert loss("centroid", far) == pytest.approx(loss("centroid", near), rel=1e-12)
    assert loss("centroid", near) == pytest.approx(loss("mean_distance", near), rel=0.01)
    point = 2 + torch.zeros_like(near)
    assert loss("centroid", near) == pytest.approx(loss("mean_distance", point), rel=1e-12)
