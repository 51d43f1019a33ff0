"""Fig. 8: sizes are areas, every patch is at the same place, and the first column is untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from stssad_fast.errors import InputError
from stssad_fast.experiments.gallery import SIZES, cut_out, cut_paste, gallery, gallery_picture
from stssad_fast.ops import cutdiff, patch_shape


def test_gallery_of_a_texture() -> None:
    picture = gallery_picture(side=100)
    shown = gallery(picture)
    assert shown.pictures.shape == (5, 8, 1, 100, 100)
    assert shown.columns == ("none", "0.01", "0.02", "0.04", "0.08", "0.16", "0.32", "0.64")
    assert all(torch.equal(row[0], picture) for row in shown.pictures)
    expected = cutdiff(picture[None], patch_shape(0.08, 2.0, 45.0), torch.tensor([0.5, 0.5]))[0]
    assert torch.equal(shown.pictures[4, 4], expected)
    assert "45°" in shown.rows[4]
    assert ((shown.pictures >= 0) & (shown.pictures <= 1)).all()
    # A larger patch hides more.
    hidden = (picture - shown.pictures[1:]).sum((-1, -2, -3))
    assert (hidden.diff(dim=1) > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_cut_out_is_a_black_square_of_that_area(size: float) -> None:
    black = cut_out(torch.ones(2, 200, 100), size) == 0
    assert black.float().mean().item() == pytest.approx(size, rel=0.05)
    assert torch.equal(black, black.flip(-1)) and torch.equal(black, black.flip(-2))


def test_cut_paste_copies_the_corner() -> None:
    picture = torch.arange(100.0).reshape(1, 10, 10) / 100
    pasted = cut_paste(picture, 0.04)
    expected = picture.clone()
    expected[:, 4:6, 4:6] = picture[:, :2, :2]
    assert torch.equal(pasted, expected)


def test_a_file_is_shown_in_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / "red.png")
    picture = gallery_picture(tmp_path / "red.png", side=32)
    assert picture.shape == (3, 32, 32)
    assert picture.mean((1, 2)).tolist() == [1.0, 0.0, 0.0]
    assert gallery(picture).pictures.shape == (5, 8, 3, 32, 32)


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(C, H, W\)"):
        gallery(torch.ones(1, 1, 20, 20))
