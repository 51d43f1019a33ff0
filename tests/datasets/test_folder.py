import os

import numpy as np
import pytest
import torch

from stssad_fast.datasets import read_folder
from stssad_fast.errors import InputError


@pytest.fixture
def mvtec(tmp_path, picture):
    root = tmp_path / "tile"
    for index in range(3):
        picture(root / f"train/good/{index}.png", 10 + index)
    for kind in ("good", "crack", "blowhole"):
        for index in range(2):
            picture(root / f"test/{kind}/{index}.png")
    picture(root / "ground_truth/crack/0_mask.png")
    picture(root / "test/ground_truth/crack/0_mask.png")
    return root


def names(data, root):
    return [path.relative_to(root).as_posix() for path in data.paths]


def test_plain_folder_is_sorted_and_unlabelled(tmp_path, picture):
    wanted = ["B.PNG", "a.png", "a/2.jpg", "a/b/1.bmp", "a10.tiff", "a9.png", "b.jpeg"]
    for number, name in enumerate(reversed(wanted)):
        picture(tmp_path / name, 10 * number)
    picture(tmp_path / ".hidden.png")
    picture(tmp_path / ".hidden/a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    data = read_folder(tmp_path, image_size=8)
    assert names(data, tmp_path) == wanted
    assert data.images.shape == (7, 1, 8, 8) and data.images.dtype == torch.float32
    assert data.images[0].mean() == pytest.approx(60 / 255)
    assert data.labels is None and data.kinds is None and data.skipped == []


def test_mvtec_root(mvtec):
    train = read_folder(mvtec, image_size=8, split="train")
    assert names(train, mvtec) == [f"train/good/{i}.png" for i in range(3)]
    test = read_folder(mvtec, image_size=8, split="test")
    assert test.kinds == ["blowhole"] * 2 + ["crack"] * 2 + ["good"] * 2
    assert test.labels is not None and test.labels.dtype == np.int64
    assert test.labels.tolist() == [1, 1, 1, 1, 0, 0]
    with pytest.raises(InputError, match="both a train and a test folder"):
        read_folder(mvtec, image_size=8)


@pytest.mark.parametrize("below", ["train", "train/good"])
def test_train_folder_of_mvtec(mvtec, below):
    assert len(read_folder(mvtec / below, image_size=8, split="train").paths) == 3


def test_train_reads_good_alone(mvtec):
    data = read_folder(mvtec / "test", image_size=8, split="train")
    assert names(data, mvtec / "test") == ["good/0.png", "good/1.png"]


def test_chosen_kinds(mvtec):
    data = read_folder(mvtec / "test", image_size=8, kinds=["good", "blowhole"])
    assert data.kinds == ["blowhole"] * 2 + ["good"] * 2
    with pytest.raises(InputError, match=r"no subfolder dent\. Choose from: blowhole, crack, good"):
        read_folder(mvtec / "test", image_size=8, kinds=["good", "dent"])
    for kinds in ([], "good"):
        with pytest.raises(InputError, match="expected a list"):
            read_folder(mvtec / "test", image_size=8, kinds=kinds)
    (mvtec / "test/dent").mkdir()
    with pytest.raises(InputError, match="dent holds no pictures"):
        read_folder(mvtec / "test", image_size=8, kinds=["good", "dent"])


def test_picture_beside_kinds_is_refused(mvtec, picture):
    picture(mvtec / "test/stray.png")
    with pytest.raises(InputError, match=r"stray\.png"):
        read_folder(mvtec / "test", image_size=8)


def test_channels(tmp_path, picture):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", mode="RGB")
    assert read_folder(tmp_path, image_size=8).images.shape[1] == 3
    assert read_folder(tmp_path, image_size=8, channels=1).images.shape[1] == 1
    (tmp_path / "b.png").unlink()
    assert read_folder(tmp_path, image_size=8).images.shape[1] == 1
    assert read_folder(tmp_path, image_size=8, channels=3).images.shape[1] == 3


def test_own_size_must_agree(tmp_path, picture):
    picture(tmp_path / "a.png", size=(12, 10))
    assert read_folder(tmp_path, image_size=None).images.shape == (1, 1, 10, 12)
    picture(tmp_path / "b.png", size=(10, 12))
    with pytest.raises(InputError, match=r"b\.png is 12 x 10 pixels.*Set image_size"):
        read_folder(tmp_path, image_size=None)


def test_unreadable_pictures_are_refused_or_skipped(tmp_path, picture):
    for index in range(4):
        picture(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1\.png is empty.*on_error=\"skip\""):
        read_folder(tmp_path, image_size=8)
    picture(tmp_path / "2.png", size=(4, 4))
    with pytest.raises(InputError, match=r"2 of 4 pictures in .*: 1\.png, 2\.png\."):
        read_folder(tmp_path, image_size=8)
    data = read_folder(tmp_path, image_size=8, on_error="skip")
    assert names(data, tmp_path) == ["0.png", "3.png"]
    assert [path.name for path, _ in data.skipped] == ["1.png", "2.png"]
    assert "empty" in data.skipped[0][1] and "4 x 4" in data.skipped[1][1]


def test_skipped_pictures_leave_labels_in_step(mvtec):
    (mvtec / "test/crack/0.png").write_bytes(b"x")
    data = read_folder(mvtec / "test", image_size=8, on_error="skip")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 1, 1, 0, 0] and len(data.images) == 5


def test_all_unreadable(tmp_path):
    for index in range(7):
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"7 of 7 pictures.*4\.png and 2 more"):
        read_folder(tmp_path, image_size=8, on_error="skip")


def test_bad_folders(tmp_path, picture):
    with pytest.raises(InputError, match="does not exist"):
        read_folder(tmp_path / "nowhere", image_size=8)
    with pytest.raises(InputError, match="is a file, expected a folder"):
        read_folder(picture(tmp_path / "file/a.png"), image_size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        read_folder(tmp_path / "empty", image_size=8)


@pytest.mark.parametrize(
    "argument", [{"on_error": "ignore"}, {"channels": 2}, {"split": "val"}, {"image_size": 3}]
)
def test_bad_arguments(tmp_path, picture, argument):
    picture(tmp_path / "a.png")
    with pytest.raises(InputError, match=next(iter(argument))):
        read_folder(tmp_path, **{"image_size": 8, **argument})


def test_links_are_followed_once(tmp_path, picture):
    picture(tmp_path / "set/a.png")
    picture(tmp_path / "elsewhere/b.png")
    os.symlink(tmp_path / "set", tmp_path / "set/loop", target_is_directory=True)
    os.symlink(tmp_path / "elsewhere", tmp_path / "set/more", target_is_directory=True)
    assert names(read_folder(tmp_path / "set", image_size=8), tmp_path / "set") == [
        "a.png",
        "more/b.png",
    ]


def test_progress_and_order_do_not_depend_on_threads(tmp_path, picture, rng):
    sizes = rng.integers(8, 300, (30, 2))
    for index, (width, height) in enumerate(sizes):
        picture(tmp_path / f"{index:02}.png", index, (int(width), int(height)))
    seen = []
    data = read_folder(tmp_path, image_size=8, progress=lambda *step: seen.append(step))
    assert seen == [(done, 30) for done in range(1, 31)]
    levels = data.images.mean((1, 2, 3)) * 255
    torch.testing.assert_close(levels, torch.arange(30.0), rtol=0, atol=1e-3)
