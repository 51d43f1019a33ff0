"""The fused normalisation of the detector against nn.BatchNorm2d and what followed it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from stssad_fast.detectors import ResNetDetector, resnet
from stssad_fast.detectors.resnet import BasicBlock, BatchNorm
from stssad_fast.ops import cutdiff, extension, mean_distance_loss, patch_shape
from stssad_fast.ops.batch_norm import has_kernel
from stssad_fast.tuning.hypergradient import bilevel_step


class PlainBlock(BasicBlock):
    """The block in PyTorch's own modules."""

    def forward(self, x):
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


def plain_twin(detector):
    """The same detector with nn.BatchNorm2d, nn.ReLU and sums."""
    twin = copy.deepcopy(detector)
    for module in twin.modules():
        for name, child in module.named_children():
            if isinstance(child, BatchNorm):
                plain = nn.BatchNorm2d(child.num_features).to(child.weight)
                plain.load_state_dict(child.state_dict())
                after = nn.ReLU() if module is twin.stem else nn.Identity()
                setattr(module, name, nn.Sequential(plain, after))
        if isinstance(module, BasicBlock):
            module.__class__ = PlainBlock
    assert not any(isinstance(module, BatchNorm) for module in twin.modules())
    return twin


def make(dtype=torch.float64, image_size=16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = ResNetDetector(3, 4, image_size)
        for name, value in detector.named_parameters():
            if value.dim() == 1 and "head" not in name:
                nn.init.normal_(value, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return detector.to(dtype)


def draw(*size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensors(detector):
    """Parameters, running statistics and counts, in order."""
    return [*detector.parameters(), *detector.buffers()]


@pytest.fixture(params=[True, False], ids=["kernel", "no kernel"], autouse=True)
def kernel(request, monkeypatch):
    """With the op, whether it has a kernel here or not, and with what stands in for it."""
    monkeypatch.setattr(resnet, "has_kernel", lambda x: request.param)


@pytest.mark.parametrize("image_size", [16, 64, 65])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_training_and_evaluation_are_those_of_plain_modules(image_size, layout):
    detector = make(image_size=image_size).to(memory_format=layout)
    twin = plain_twin(detector)
    image = draw(3, 3, image_size, image_size).contiguous(memory_format=layout)
    for step in range(4):
        results = []
        for model in (detector, twin):
            model.train(step != 2)
            z, logit = model(image + step / 10)
            slopes = torch.autograd.grad(
                logit.square().sum() + z[:, 0].sum(), list(model.parameters())
            )
            results.append((z, logit, *slopes, *tensors(model)))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    assert detector.stem[1].num_batches_tracked == 3


def test_the_keys_of_old_checkpoints_are_the_same():
    """As nn.BatchNorm2d and nn.ReLU gave them in their places."""
    detector = make(image_size=64)
    norms = [name for name, m in detector.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms[:3] == ["stem.1", "blocks.0.norm1", "blocks.0.norm2"]
    assert "blocks.2.shortcut.1" in norms and len(norms) == 20
    plain = set(nn.BatchNorm2d(1).state_dict())
    for name in norms:
        keys = {k[len(name) + 1 :] for k in detector.state_dict() if k.startswith(name + ".")}
        assert keys == plain
    assert all(isinstance(m, BatchNorm) for n, m in detector.named_modules() if n in norms)


def step_of(detector, images, test, dtype):
    """A step as the tuner takes it."""
    center = draw(len(images), 2, seed=5).to(dtype)
    images, test = images.to(dtype), test.to(dtype)
    parameters = dict(detector.named_parameters())

    def augment(a, images):
        return cutdiff(images, a["shape"], center)

    def train_loss(theta, a):
        detector.train()
        both = torch.cat([images, augment(a, images)])
        _, logit = functional_call(detector, theta, (both,))
        truth = torch.arange(len(both), device=logit.device) >= len(images)
        return F.binary_cross_entropy_with_logits(logit, truth.to(logit))

    def validation_loss(theta, a):
        buffers = {k: v.clone() for k, v in detector.named_buffers()}
        stacked = torch.cat([images, augment(a, images), test])
        z, _ = functional_call(detector, (theta, buffers), (stacked,))
        return mean_distance_loss(*z.split([len(images), len(images), len(test)]))

    shape = {"shape": patch_shape(0.1, 1.5, 20.0).to(dtype)}
    return bilevel_step(train_loss, validation_loss, parameters, shape, learning_rate=0.02)


def pictures():
    return draw(4, 3, 16, 16), draw(5, 3, 16, 16, seed=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_hypergradient_is_that_of_plain_modules(layout):
    detector = make().to(memory_format=layout)
    twin = plain_twin(detector)
    found, expected = (step_of(m, *pictures(), torch.float64) for m in (detector, twin))
    assert max(g.abs().max() for g in expected.gradient.values()) > 0
    for name, gradient in expected.gradient.items():
        torch.testing.assert_close(found.gradient[name], gradient, atol=1e-10, rtol=1e-10)
    for f, e in zip(found.parameters.values(), expected.parameters.values(), strict=True):
        torch.testing.assert_close(f, e, atol=1e-10, rtol=1e-10)
    # Only the training pass leaves a trace in the running statistics.
    for f, e in zip(detector.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(f, e, atol=1e-10, rtol=1e-10)
    assert detector.stem[1].num_batches_tracked == 1


def test_the_hypergradient_in_float32():
    exact = step_of(plain_twin(make()), *pictures(), torch.float64).gradient
    found = step_of(make(torch.float32), *pictures(), torch.float32).gradient
    for name, gradient in exact.items():
        assert (found[name] - gradient).abs().max() < 1e-3 * gradient.abs().max()


def test_under_autocast():
    detector = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logit = detector(draw(4, 3, 16, 16).float())[1]
    first = torch.autograd.grad(
        logit.float().square().sum(), list(detector.parameters()), create_graph=True
    )
    second = torch.autograd.grad(
        sum(g.square().sum() for g in first), list(detector.parameters()), allow_unused=True
    )
    assert all(torch.isfinite(g).all() for g in first)
    assert all(g is None or torch.isfinite(g).all() for g in second)


def test_the_kernel_is_in_use_where_there_is_one():
    x = torch.rand(2, 3, 4, 4)
    assert has_kernel(x) == extension.load()
    assert torch.func.vmap(lambda v: v * (0.0 if has_kernel(v) else 1.0))(x).equal(x)


def test_compiles_whole():
    detector = make(torch.float32)
    twin, image = copy.deepcopy(detector), draw(2, 3, 16, 16).float()
    torch._dynamo.reset()
    compiled = torch.compile(detector, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), twin(image))
