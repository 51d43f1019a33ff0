"""Pictures and augmentations of the study: what is anomalous, and how an augmentation is named."""

import numpy as np
import pytest
import torch

from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import Named
from stssad_fast.errors import InputError
from stssad_fast.experiments import problems, testbeds

OPTIONS = {"normal": 1, "image_size": 16, "train_limit": 7, "test_limit": 5}


@pytest.fixture
def labelled(tmp_path):
    """An .npz file of two classes whose pictures all differ, asymmetric and dark."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (20, 16, 16), dtype=np.uint8)
    labels = np.arange(20) % 2
    path = tmp_path / "two.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return path


def test_every_second_held_out_picture_is_changed(labelled):
    found = problems.read("testbeds", str(labelled), {**OPTIONS, "generators": ["flip"]})
    assert list(found.tests) == ["flip", "0"]
    task = found.tests["flip"]
    assert task.labels.tolist() == [0, 0, 0, 1, 1]
    pictures = torch.from_numpy(np.load(labelled)["test_images"])[1::2, None][:5] / 255
    torch.testing.assert_close(task.images[:3], pictures[0::2])
    torch.testing.assert_close(task.images[3:], pictures[1::2].flip(2))


@pytest.mark.parametrize("name", ["invert", "rotate", "geom"])
def test_no_anomaly_is_left_as_it_was(name, labelled):
    options = {**OPTIONS, "test_limit": 10, "generators": [name, "flip"]}
    found = problems.read("testbeds", str(labelled), options)
    pictures = torch.from_numpy(np.load(labelled)["test_images"])[1::2, None] / 255
    changed = found.tests[name].images[5:]
    assert ((changed - pictures[1::2]).abs().amax((1, 2, 3)) > 0.1).all()
    alone = problems.read("testbeds", str(labelled), {**options, "generators": [name]})
    torch.testing.assert_close(alone.tests[name].images, found.tests[name].images, atol=0, rtol=0)


def test_digits_are_divided_too():
    found = problems.read("testbeds", "digits", {**OPTIONS, "generators": ["cutout", "flip"]})
    assert list(found.tests) == ["cutout", "flip", *"023456789"]
    assert len(found.train) == 7
    assert np.bincount(found.tests["flip"].labels).tolist() == [3, 2]
    every = {**OPTIONS, "train_limit": 500, "test_limit": 200, "generators": ["flip"]}
    found = problems.read("testbeds", "digits", every)
    assert 100 < len(found.train) < 120
    assert np.bincount(found.tests["flip"].labels).tolist() == [37, 36]


def test_too_few_held_out_pictures_are_refused(labelled):
    options = {**OPTIONS, "test_limit": 1, "generators": ["flip"]}
    with pytest.raises(InputError, match="has 1 test pictures; expected 2 or more"):
        problems.read("testbeds", str(labelled), options)


def test_a_part_for_every_class():
    parts = testbeds.testbeds("digits", [3, 5], 16, 20, 10, ["flip"])
    assert [part.options["normal"] for part in parts] == [3, 5]
    assert [parts[1].names(test) for test in ("flip", "3")] == ["5 flip", "5/3"]
    for wrong in (["identity"], ["flip", "flip"], ["sepia"]):
        with pytest.raises(InputError, match="unknown or named twice; choose from"):
            testbeds.testbeds("digits", [3], 16, 20, 10, wrong)


def test_an_augmentation_is_read_as_it_is_written():
    assert Named.parse("flip") == Named("flip")
    found = Named.parse("cutout:size=0.20")
    assert (str(found), found.title, found.family) == ("cutout:size=0.2", "CutOut-0.2", "local")
    assert Named.parse(str(found)) == found
    assert isinstance(found.made(), catalogue.PictureAugmentation)


@pytest.mark.parametrize("text", ["sepia", "cutout:size", "cutout:size=two", "cutout:colour=1"])
def test_an_augmentation_that_is_none_is_refused(text):
    with pytest.raises(InputError):
        Named.parse(text)
