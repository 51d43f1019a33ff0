"""The hypergradient against central differences of the whole map a -> L_val(theta'(a), a)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from stssad_fast.ops import cutdiff, mean_distance_loss, patch_shape, rotate
from stssad_fast.tuning.hypergradient import bilevel_step
from stssad_fast.tuning.shift import shift_loss

LEARNING_RATE = 2.0


class Problem:
    """Both losses on fixed batches, in float64 and smooth; both augmentations at once."""

    def __init__(self, make_detector, pictures, norm, distance=mean_distance_loss):
        self.distance = distance
        self.train, self.test = (images.double() for images in pictures)
        self.detector = make_detector(activation=nn.Softplus, norm=norm).double()
        self.theta = {k: v.detach() for k, v in self.detector.named_parameters()}
        generator = torch.Generator().manual_seed(5)
        self.center = torch.rand(len(self.train), 2, generator=generator, dtype=torch.float64)
        self.velocity = {
            k: 0.1 * torch.randn(v.shape, generator=generator, dtype=torch.float64)
            for k, v in self.theta.items()
        }
        self.a = {
            "raw": torch.tensor([-3.0, 0.3, 0.2], dtype=torch.float64),
            "radians": torch.tensor(0.35, dtype=torch.float64),
            "weight": torch.tensor(0.7, dtype=torch.float64),  # only the validation loss uses it
        }

    def augment(self, a):
        log_size, log_aspect, angle = a["raw"].unbind()
        shape = patch_shape(log_size.exp(), log_aspect.exp(), torch.rad2deg(angle))
        return rotate(cutdiff(self.train, shape, self.center), torch.rad2deg(a["radians"]))

    def train_loss(self, theta, a):
        both = torch.cat([self.train, self.augment(a)])
        _, logit = functional_call(self.detector, theta, (both,))
        truth = torch.zeros_like(logit)
        truth[len(self.train) :] = 1
        return F.binary_cross_entropy_with_logits(logit, truth)

    def validation_loss(self, theta, a):  # does not use the head of theta
        stacked = torch.cat([self.train, self.augment(a), self.test])
        embedding, _ = functional_call(self.detector, theta, (stacked,))
        counts = [len(self.train), len(self.train), len(self.test)]
        loss = self.distance(*embedding.split(counts))
        return loss * a["weight"].square()

    def stepped(self, theta, a, momentum=0.0, create_graph=False):
        gradients = torch.autograd.grad(
            self.train_loss(theta, a), list(theta.values()), create_graph=create_graph
        )
        return {
            name: value - LEARNING_RATE * (gradient + momentum * self.velocity[name])
            for (name, value), gradient in zip(theta.items(), gradients, strict=True)
        }

    def whole(self, a, momentum):
        """L_val(theta'(a), a)."""
        theta = {k: v.clone().requires_grad_() for k, v in self.theta.items()}
        return self.validation_loss(self.stepped(theta, a, momentum), a).item()

    def step(self, **options):
        self.moved = {k: v.clone() for k, v in self.velocity.items()}
        return bilevel_step(
            self.train_loss,
            self.validation_loss,
            self.theta,
            self.a,
            learning_rate=LEARNING_RATE,
            velocity=self.moved,
            **options,
        )


@pytest.fixture(params=[True, False], ids=["batch norm", "no norm"])
def problem(make_detector, pictures, request):
    return Problem(make_detector, pictures, request.param)


def flat(a):
    return torch.cat([value.reshape(-1) for value in a.values()])


def central_differences(function, a, width=1e-4):
    """Of fourth order, one number of ``a`` after the other."""
    slopes = []
    for name, value in a.items():
        for index in range(value.numel()):

            def moved(by, name=name, value=value, index=index):
                changed = value.clone()
                changed.view(-1)[index] += by
                return function({**a, name: changed})

            near, far = (moved(w) - moved(-w) for w in (width, 2 * width))
            slopes.append((8 * near - far) / (12 * width))
    return torch.tensor(slopes, dtype=torch.float64)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_exact(problem, momentum):
    found = flat(problem.step(momentum=momentum).gradient)
    expected = central_differences(lambda a: problem.whole(a, momentum), problem.a)
    assert found.abs().min() > 1e-6
    assert (abs(found - expected) <= 1e-6 * expected.abs()).all()


def test_the_shift_moves_the_augmentation_through_the_detector_alone(make_detector, pictures):
    problem = Problem(
        make_detector, pictures, False, lambda train, _, test: shift_loss(train, test)
    )
    found = flat(problem.step().gradient)
    expected = central_differences(lambda a: problem.whole(a, 0.0), problem.a)
    assert found.abs().min() > 1e-6
    assert (abs(found - expected) <= 1e-6 * expected.abs()).all()
    first = problem.step(first_order=True).gradient
    assert first["raw"].abs().max() == first["radians"].abs() == 0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_autograd_through_the_step(problem, momentum, assert_close):
    a = {k: v.clone().requires_grad_() for k, v in problem.a.items()}
    theta = {k: v.clone().requires_grad_() for k, v in problem.theta.items()}
    stepped = problem.stepped(theta, a, momentum, create_graph=True)
    loss = problem.validation_loss(stepped, a)
    loss.backward()
    step = problem.step(momentum=momentum)
    assert_close(flat(step.gradient), flat({k: v.grad for k, v in a.items()}))
    assert_close(step.train_loss, problem.train_loss(theta, a))
    assert_close(step.validation_loss, loss)
    for name, value in stepped.items():
        assert_close(step.parameters[name], value)
        direction = (theta[name] - value) / LEARNING_RATE
        assert_close(problem.moved[name], direction)


def test_first_order_holds_the_step_constant(problem, assert_close):
    exact, first = problem.step(), problem.step(first_order=True)
    a = {k: v.clone().requires_grad_() for k, v in problem.a.items()}
    problem.validation_loss(exact.parameters, a).backward()
    held = {k: v.grad for k, v in a.items()}
    assert_close(flat(first.gradient), flat(held))
    difference = flat(exact.gradient) - flat(first.gradient)
    assert abs(difference[:4] / flat(exact.gradient)[:4]).min() > 1e-3  # 1000 x what is tested
    assert difference[4] == 0  # of the hyperparameter that the training loss does not use
    for name, value in exact.parameters.items():
        assert torch.equal(first.parameters[name], value)


def test_hyperparameters_that_one_loss_or_both_ignore():
    def train_loss(theta, a):
        return (theta["x"] * a["inner"]).square().sum()

    def validation_loss(theta, a):
        return theta["x"].sum() + 3 * a["outer"]

    one = torch.ones((), dtype=torch.float64)
    a = {"inner": 2 * one, "outer": one, "none": one}
    step = bilevel_step(train_loss, validation_loss, {"x": one}, a, learning_rate=0.1)
    # x' = x - 0.1 * 2 x inner^2, whose slope for inner is -0.4 x inner.
    assert {k: v.item() for k, v in step.gradient.items()} == pytest.approx(
        {"inner": -0.8, "outer": 3.0, "none": 0.0}
    )
    step = bilevel_step(
        lambda theta, a: theta["x"] ** 2, validation_loss, {"x": one}, a, learning_rate=0.1
    )
    assert {k: v.item() for k, v in step.gradient.items()} == {"inner": 0, "outer": 3, "none": 0}


def test_nothing_that_is_given_or_returned_holds_a_graph(problem):
    before = flat(problem.theta).clone(), flat(problem.a).clone(), flat(problem.velocity).clone()
    step = problem.step(momentum=0.9)
    for kept, given in zip(before, (problem.theta, problem.a, problem.velocity), strict=True):
        assert torch.equal(kept, flat(given))
        assert not any(value.requires_grad for value in given.values())
    tensors = [*step.parameters.values(), *problem.moved.values(), *step.gradient.values()]
    assert not any(t.requires_grad for t in (*tensors, step.train_loss, step.validation_loss))
