"""Pictures of the experiments: what is trained on, what is tested, and how they are told apart."""

import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from stssad_fast.errors import InputError
from stssad_fast.experiments import plans, problems, settings
from stssad_fast.ops import cutdiff, patch_shape

SIZE = {"image_size": 16, "channels": 1}
LIMITS = {"image_size": 16, "train_limit": 7, "test_limit": 3}


@pytest.fixture
def category(tmp_path):
    """A folder in MVTec AD's layout, with two kinds of defects."""
    rng = np.random.default_rng(0)
    for name, count in {"train/good": 6, "test/good": 4, "test/cut": 3, "test/hole": 2}.items():
        folder = tmp_path / "tile" / name
        folder.mkdir(parents=True)
        for index in range(count):
            picture = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{index}.png")
    return tmp_path / "tile"


@pytest.fixture
def labelled(tmp_path):
    """An .npz file of three classes, a class being told by its brightness."""
    labels = np.tile(np.arange(3), 10)
    images = np.broadcast_to((80 * labels)[:, None, None], (30, 16, 16)).astype(np.uint8)
    path = tmp_path / "three.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return path


def test_every_kind_of_defect_is_a_task_against_the_good_pictures(category):
    found = problems.read("defects", str(category), SIZE)
    assert found.train.shape == (6, 1, 16, 16)
    assert {name: task.labels.tolist() for name, task in found.tests.items()} == {
        "cut": [1, 1, 1, 0, 0, 0, 0],
        "hole": [0, 0, 0, 0, 1, 1],
    }
    good = found.tests["cut"].images[3:]
    torch.testing.assert_close(found.tests["hole"].images[:4], good, atol=0, rtol=0)


def test_the_digest_tells_the_pictures_and_not_the_folder(category, tmp_path):
    digest = problems.read("defects", str(category), SIZE).digest()
    shutil.copytree(category, tmp_path / "copy")
    assert problems.read("defects", str(tmp_path / "copy"), SIZE).digest() == digest
    Image.new("L", (16, 16), 3).save(tmp_path / "copy/test/hole/0.png")
    problems._read.cache_clear()
    assert problems.read("defects", str(tmp_path / "copy"), SIZE).digest() != digest


def test_the_digest_tells_the_labels():
    """They decide on the AUC, and may be put right where the pictures stay as they are."""
    images = torch.rand(4, 1, 16, 16)
    digests = {
        problems.Problem(images, {"cut": problems.Task(images, np.array(labels))}).digest()
        for labels in ([0, 0, 1, 1], [0, 1, 1, 1])
    }
    assert len(digests) == 2


def test_categories_are_the_folder_or_those_in_it(category, tmp_path):
    assert problems.categories(category) == [category]
    shutil.copytree(category, tmp_path / "another")
    (tmp_path / "notes").mkdir()
    assert problems.categories(tmp_path) == [tmp_path / "another", category]
    with pytest.raises(InputError, match="no category in MVTec AD's layout"):
        problems.categories(tmp_path / "notes")
    with pytest.raises(InputError, match="does not exist"):
        problems.categories(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file, expected a folder in MVTec AD's layout"):
        problems.categories(tmp_path / "file")


@pytest.mark.skipif(sys.platform != "linux", reason="names must be UTF-8")
def test_names_that_are_no_utf_8_or_look_like_a_format(category):
    odd = category.rename(category.parent / os.fsdecode(b"{0} \xff"))
    (odd / "test/cut").rename(odd / "test" / os.fsdecode(b"\xff{}"))
    (part,) = plans.defects([odd], 16, 1)
    _, tasks = plans.pictures(part)
    assert sorted(tasks.values(), reverse=True) == [r"{0} \xff/hole", r"{0} \xff/\xff{}"]
    (job, *_) = plans.plan([part], ["AE"], [0], settings.parameters("defects", "small", {}))
    assert job.key


def test_one_class_is_normal_and_each_other_one_a_task(labelled):
    found = problems.read("semantic", str(labelled), {"normal": 1, **LIMITS})
    assert found.train.shape == (7, 1, 16, 16)
    assert found.train.unique().tolist() == [pytest.approx(80 / 255)]
    assert list(found.tests) == ["0", "2"]
    for name, task in found.tests.items():
        assert np.bincount(task.labels).tolist() == [3, 3]
        anomalous = task.images[torch.from_numpy(np.flatnonzero(task.labels))]
        assert anomalous.unique().tolist() == [pytest.approx(80 * int(name) / 255)]


def test_digits_train_on_the_same_pictures_in_every_task():
    found = problems.read("semantic", "digits", {"normal": 6, **LIMITS})
    assert list(found.tests) == [str(digit) for digit in range(10) if digit != 6]
    assert found.train.shape == (7, 1, 16, 16)
    assert all(np.bincount(task.labels).tolist() == [3, 3] for task in found.tests.values())
    good = [task.images[torch.from_numpy(task.labels) == 0] for task in found.tests.values()]
    for other in good[1:]:
        torch.testing.assert_close(other, good[0], atol=0, rtol=0)


@pytest.mark.parametrize("source", ["gravel", "folder"])
def test_anomalies_are_made_of_pictures_that_are_seen_nowhere_else(source, category):
    where = str(category) if source == "folder" else source
    options = {"image_size": 16, "train_limit": 2, "test_limit": 2}
    options |= {"sizes": [0.01, 0.04], "aspects": [1.0]}
    found = problems.read("made", where, options)
    assert found.train.shape == (2, 1, 16, 16)
    assert list(found.tests) == ["size 0.01 aspect 1", "size 0.04 aspect 1"]
    task = found.tests["size 0.04 aspect 1"]
    assert task.labels.tolist() == [0, 0, 1, 1]
    if source == "folder":
        good = problems.read("defects", where, SIZE).train
        expected = cutdiff(
            good[3:6:2],
            patch_shape(0.04, 1.0, 0.0),
            generator=torch.Generator().manual_seed(0),
        )
        torch.testing.assert_close(task.images, torch.cat([good[2:6:2], expected]))


def test_too_few_good_pictures_are_refused(category):
    options = {"image_size": 16, "train_limit": 5, "test_limit": 2}
    with pytest.raises(InputError, match="Lower --train-limit"):
        problems.read("made", str(category), {**options, "sizes": [0.01], "aspects": [1.0]})


def test_a_folder_without_kinds_is_refused(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        Image.new("L", (16, 16)).save(tmp_path / name / "0.png")
    with pytest.raises(InputError, match="layout of MVTec AD"):
        problems.read("defects", str(tmp_path), SIZE)


def test_a_task_without_normal_or_without_anomalous_pictures_is_refused(labelled):
    arrays = dict(np.load(labelled))
    for classes in ([1], [0, 2]):
        chosen = np.isin(arrays["test_labels"], classes)
        test = {name: arrays[name][chosen] for name in ("test_images", "test_labels")}
        path = labelled.with_name(f"{len(classes)}.npz")
        np.savez(path, **{**arrays, **test})
        with pytest.raises(InputError, match="expected 1, which is to be normal, and at least one"):
            problems.read("semantic", str(path), {"normal": 1, **LIMITS})
