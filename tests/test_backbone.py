"""STSSAD with a network of the user's in place of ResNet-18."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from stssad_fast import STSSAD, InputError
from stssad_fast.detectors import backbone as backbones

PARAMS = {
    "width": 1,
    "iterations": 2,
    "warm_up": 1,
    "batch_size": 4,
    "starts": [{"size": 0.01}, {"size": 0.1, "aspect": 2.0}],
    "unit_embedding": False,
    "random_state": 0,
    "device": "cpu",
}


def network(dropout=0.0, hidden=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, hidden, 3, 2, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.LeakyReLU(inplace=True),
            nn.Sequential(nn.Conv2d(hidden, 5, 3, 2, 1), nn.LeakyReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *([nn.Dropout(dropout)] if dropout else []),
        )


def make(backbone, **changes):
    return STSSAD(**{**PARAMS, **changes, "backbone": backbone})


def draw(count, seed, channels=1, size=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


TRAIN, TEST = draw(10, 0), draw(8, 1)


def same(one, other):
    np.testing.assert_array_equal(one.score_samples(TEST), other.score_samples(TEST))
    assert one.history_ == other.history_


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "first_order"},
        {"strategy": "random_dynamic"},
        {"recompute": True},
        {"validation": "all", "validation_norm": "running"},
    ],
    ids=str,
)
def test_a_copy_of_it_is_trained_in_every_start(changes):
    backbone = network()
    before = copy.deepcopy(backbone.state_dict())
    model = make(backbone, **changes).fit(TRAIN, TEST)
    assert model.embed(TEST).shape == (8, 5)
    assert np.isfinite(model.score_samples(TEST)).all()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    weight = model.detector_.backbone[0].weight
    assert not torch.equal(weight, backbone[0].weight)
    if "strategy" not in changes:
        first, second = (start["history"]["train_loss"][0] for start in model.starts_)
        assert first != second
        for start in model.starts_:
            assert start["history"]["size"][1] != start["history"]["size"][0]
    if changes.get("recompute"):
        same(model, make(backbone).fit(TRAIN, TEST))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_one_seed_gives_one_result_however_it_is_reached(dropout, tmp_path):
    backbone = network(dropout)
    model = make(backbone).fit(TRAIN, TEST)
    before = torch.random.get_rng_state()
    same(make(backbone).fit(TRAIN, TEST), model)
    assert torch.equal(torch.random.get_rng_state(), before)
    if not dropout:
        assert (
            make(backbone, random_state=1).fit(TRAIN, TEST).embed(TEST) != model.embed(TEST)
        ).any()

    path, seen = tmp_path / "checkpoint", []

    def interrupt(progress):
        seen.append(progress)
        if len(seen) == 5:
            raise RuntimeError

    resumed = make(backbone)
    with pytest.raises(RuntimeError):
        resumed.fit(TRAIN, TEST, checkpoint_path=path, checkpoint_interval=0.0, callback=interrupt)
    torch.manual_seed(7)
    same(resumed.fit(TRAIN, TEST, checkpoint_path=path, resume=True), model)


@pytest.mark.parametrize("validation_norm", ["joint", "running"])
def test_no_two_passes_draw_the_same_mask(monkeypatch, validation_norm):
    seeds, seeded = [], backbones._seeded

    def noted(seed, device):
        seeds.extend([seed] if seed else [])  # 0 is that of a trial
        return seeded(seed, device)

    monkeypatch.setattr(backbones, "_seeded", noted)
    one = {"iterations": 3, "starts": [{"size": 0.01}]}
    make(network(0.5), **one, validation_norm=validation_norm).fit(TRAIN, TEST)
    assert len(seeds) > 3
    assert len(set(seeds)) == len(seeds)


def test_starts_side_by_side_give_the_same():
    backbone = network(0.5)
    model = make(backbone, n_jobs=2).fit(TRAIN, TEST)
    same(model, make(backbone).fit(TRAIN, TEST))


class Local(nn.Sequential):
    def __reduce__(self):
        raise TypeError("stays here")


def test_a_backbone_that_cannot_be_sent():
    backbone = Local(*network())
    backbone.__deepcopy__ = lambda memo: network()
    with pytest.raises(InputError, match=r"n_jobs sends the augmentation, a backbone"):
        make(backbone, n_jobs=2).fit(TRAIN, TEST)


def test_checkpoint_of_another_backbone_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    make(network()).fit(TRAIN, TEST, checkpoint_path=path)
    make(network()).fit(TRAIN, TEST, checkpoint_path=path, resume=True)
    moved = network()
    moved[0].weight.data += 1e-3
    for other in (moved, network(0.5), None):
        with pytest.raises(InputError, match="another run"):
            make(other).fit(TRAIN, TEST, checkpoint_path=path, resume=True)


@pytest.mark.parametrize("own", [None, (0.4, 0.3)])
def test_save_and_load(own, tmp_path):
    backbone, other = network(0.1), network(0.1)
    if own:
        backbone.mean, backbone.std = other.mean, other.std = own
    model = make(backbone).fit(TRAIN, TEST)
    model.save(tmp_path / "model")
    other[0].weight.data.zero_()  # the file's weights count
    loaded = STSSAD.load(tmp_path / "model", "cpu", backbone=other)
    same(loaded, model)
    assert loaded.threshold_ == model.threshold_
    assert loaded.backbone is other
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_a_file_and_a_backbone_that_do_not_belong_together(tmp_path):
    make(network()).fit(TRAIN, TEST).save(tmp_path / "own")
    make(None).fit(TRAIN, TEST).save(tmp_path / "plain")
    with pytest.raises(InputError, match=r"fitted with the backbone torch.*Sequential, which no"):
        STSSAD.load(tmp_path / "own")
    with pytest.raises(InputError, match="without a backbone of your own; leave it out"):
        STSSAD.load(tmp_path / "plain", backbone=network())
    for wrong in (network(hidden=3), nn.Flatten(), nn.Conv2d(1, 4, 3)):
        with pytest.raises(InputError, match="does not fit the backbone that was given"):
            STSSAD.load(tmp_path / "own", "cpu", wrong)


@pytest.mark.parametrize("option", ["recompute", "graph", "distributed"])
def test_options_that_repeat_or_share_a_step_need_a_backbone_without_dropout(option, monkeypatch):
    model = make(network(0.5), **{option: True})
    model.image_shape_ = (1, 16, 16)
    with pytest.raises(InputError, match=f"{option}=True cannot (repeat|share)"):
        model._detector()


def test_conventions():
    backbone = network()
    model = make(backbone).fit(TRAIN, TEST)
    assert model.get_params()["backbone"] is backbone
    other = clone(model)
    same(other.fit(TRAIN, TEST), model)
    with pytest.raises(ValueError, match="backbone"):
        make("resnet").fit(TRAIN, TEST)
    with pytest.raises(InputError, match="cannot take pictures"):
        make(backbone).fit(draw(10, 0, 3), draw(8, 1, 3))
