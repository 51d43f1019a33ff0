"""Augmentations as they are typed and printed."""

import pytest
import torch

from stssad_fast import InputError, cutdiff, patch_shape
from stssad_fast.augment.catalogue import NAMES, Named


@pytest.mark.parametrize(
    ("text", "title", "family"),
    [
        ("rotate", "Rotate", "geometric"),
        ("cutout:size=0.2", "CutOut-0.2", "local"),
        ("cutdiff:size=0.01:aspect=4", "CutDiff, size 0.01, aspect 4", "local"),
    ],
)
def test_as_typed_and_printed(text, title, family):
    found = Named.parse(f" {text} ")
    assert (str(found), found.title, found.family) == (text, title, family)
    assert Named.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sparkle", "sparkle"),
        ("cutout:size", "NAME:SETTING=NUMBER"),
        ("cutout:length=1", "length"),
        ("cutout:size=7", "size is 7"),
        ("cutdiff:length=1", "which has size, aspect, angle"),
        ("cutdiff:size=-1", "size is -1"),
        ("cutdiff:size=nan", "size is nan"),
        ("cutdiff:aspect=100", "aspect is 100"),
    ],
)
def test_what_is_refused(text, match):
    with pytest.raises(InputError, match=match):
        Named.parse(text)


def test_cutdiff_is_the_operator_at_a_fixed_shape():
    image = torch.rand(3, 1, 16, 16)
    made = Named.parse("cutdiff:size=0.02:aspect=2:angle=30").made()
    one = made(image, generator=torch.Generator().manual_seed(0))
    shape = patch_shape(0.02, 2.0, 30.0)
    assert torch.equal(one, cutdiff(image, shape, generator=torch.Generator().manual_seed(0)))
    assert "cutdiff" not in NAMES
