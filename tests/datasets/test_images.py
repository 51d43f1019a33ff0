import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from stssad_fast.datasets import MIN_SIDE, read_image, resize, with_channels
from stssad_fast.errors import InputError

H, W = 11, 14


@pytest.fixture
def grey8(rng):
    return rng.integers(0, 256, (H, W), np.uint8)


@pytest.fixture
def rgb8(rng):
    return rng.integers(0, 256, (H, W, 3), np.uint8)


@pytest.fixture
def rgb16(rng):
    return rng.integers(0, 65536, (H, W, 3), np.uint16)


def chw(array, white):
    array = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(array.astype(np.float64) / white).permute(2, 0, 1).float()


def assert_reads(path, expected, atol=1e-6):
    image = read_image(path)
    assert image.dtype == torch.float32 and image.is_contiguous()
    torch.testing.assert_close(image, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_8_bit_grey_and_rgb(tmp_path, grey8, rgb8, suffix):
    for array in (grey8, rgb8):
        Image.fromarray(array).save(tmp_path / f"a.{suffix}")
        assert_reads(tmp_path / f"a.{suffix}", chw(array, 255))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(tmp_path, mode):
    colour = {"L": 100, "RGB": (200, 100, 50), "CMYK": (55, 155, 205, 0)}[mode]
    Image.new(mode, (16, 16), colour).save(tmp_path / "a.jpg", quality=100)
    expected = torch.tensor([100.0] if mode == "L" else [200.0, 100.0, 50.0]) / 255
    assert_reads(tmp_path / "a.jpg", expected[:, None, None].expand(-1, 16, 16), atol=0.02)


def test_first_picture_of_a_cameras_mpo(tmp_path):
    first, second = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert_reads(tmp_path / "a.jpg", torch.ones(3, 16, 16), atol=0.02)


def test_1_bit(tmp_path, grey8):
    Image.fromarray(grey8 > 127).save(tmp_path / "a.png")
    assert_reads(tmp_path / "a.png", chw((grey8 > 127).astype(np.uint8), 1))


def test_palette_is_colour(tmp_path):
    image = Image.new("P", (W, H), 1)
    image.putpalette([0, 0, 0, 255, 0, 51])
    image.save(tmp_path / "a.png")
    assert_reads(tmp_path / "a.png", torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(-1, H, W))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_black(tmp_path, rng, mode):
    array = rng.integers(0, 256, (H, W, len(mode)), np.uint8)
    Image.fromarray(
        array,
    ).save(tmp_path / "a.png")
    expected = array[..., :-1].astype(np.float64) * array[..., -1:] / 255
    assert_reads(tmp_path / "a.png", chw(expected, 255))


def test_transparent_palette_entry_is_black(tmp_path):
    image = Image.new("P", (W, H), 1)
    image.putpalette([0, 0, 0, 255, 0, 51])
    image.save(tmp_path / "a.png", transparency=1)
    assert_reads(tmp_path / "a.png", torch.zeros(3, H, W))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_precision(tmp_path, rgb16, suffix):
    Image.fromarray(rgb16[..., 0].copy()).save(tmp_path / f"a.{suffix}")
    assert_reads(tmp_path / f"a.{suffix}", chw(rgb16[..., 0], 65535))


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "zlib"}])
def test_16_bit_rgb_tiff_keeps_its_precision(tmp_path, rgb16, options):
    tifffile.imwrite(tmp_path / "a.tif", rgb16, photometric="rgb", **options)
    assert_reads(tmp_path / "a.tif", chw(rgb16, 65535))


def test_16_bit_planar_tiff(tmp_path, rgb16):
    planes = np.moveaxis(rgb16, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert_reads(tmp_path / "a.tif", chw(rgb16, 65535))


def test_16_bit_rgb_png_has_the_right_range(tmp_path):
    """Pillow reads these with 8 bits."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    row = b"\0" + np.array([0, 32768, 65535] * W, ">u2").tobytes()
    header = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * H)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    expected = torch.tensor([0.0, 0.5, 1.0])[:, None, None].expand(-1, H, W)
    assert_reads(tmp_path / "a.png", expected, atol=1 / 255)


def test_16_bit_tiff_in_a_compression_that_only_pillow_knows(tmp_path, rgb16):
    Image.fromarray(rgb16[..., 0].copy()).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert_reads(tmp_path / "a.tif", chw(rgb16[..., 0], 65535))


def test_16_bit_tiff_white_is_zero_and_alpha(tmp_path, rgb16):
    tifffile.imwrite(tmp_path / "a.tif", rgb16[..., 0], photometric="miniswhite")
    assert_reads(tmp_path / "a.tif", 1 - chw(rgb16[..., 0], 65535))
    rgba = np.concatenate([rgb16, rgb16[..., :1]], -1)
    for kind, factor in (("unassalpha", chw(rgb16[..., :1], 65535)), ("assocalpha", 1)):
        tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=[kind])
        assert_reads(tmp_path / "a.tif", chw(rgb16, 65535) * factor)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_tiff_in_range(tmp_path, rng, dtype):
    array = rng.random((H, W)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array)
    assert_reads(tmp_path / "a.tif", chw(array, 1))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((H, W), 3.5, np.float32), r"floats from 3.5 to 3.5, expected \[0, 1\]"),
        (np.full((H, W), np.nan, np.float32), "floats from nan"),
        (np.ones((H, W), np.int32), "int32, whose white is not known"),
        (np.ones((H, W), np.uint32), "uint32"),
        (np.ones((H, W), np.int16), "int16"),
    ],
)
def test_tiff_of_unknown_range_is_refused(tmp_path, array, words):
    tifffile.imwrite(tmp_path / "a.tif", array)
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "a.tif")


def test_tiff_of_five_bands_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((H, W, 5), np.uint16), planarconfig="contig")
    with pytest.raises(InputError, match="expected grey or RGB"):
        read_image(tmp_path / "a.tif")


def test_first_page_of_a_tiff(tmp_path, rgb16):
    pages = np.moveaxis(rgb16, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    assert_reads(tmp_path / "a.tif", chw(pages[0], 65535))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, grey8, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(grey8).save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert upright.shape == ((1, H, W) if orientation < 5 else (1, W, H))
    if orientation == 6:  # "the camera was turned left": turn clockwise
        torch.testing.assert_close(upright, chw(np.rot90(grey8, -1).copy(), 255))
    deep = grey8.astype(np.uint16) * 257  # the same by the other road
    tifffile.imwrite(tmp_path / "a.tif", deep, extratags=[(274, "H", 1, orientation, True)])
    torch.testing.assert_close(read_image(tmp_path / "a.tif"), upright)


def test_channels(tmp_path, rgb8, grey8):
    Image.fromarray(rgb8).save(tmp_path / "rgb.png")
    Image.fromarray(grey8).save(tmp_path / "grey.png")
    expected = (chw(rgb8, 255) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    torch.testing.assert_close(read_image(tmp_path / "rgb.png", channels=1)[0], expected)
    repeated = read_image(tmp_path / "grey.png", channels=3)
    assert repeated.shape == (3, H, W) and (repeated == repeated[:1]).all()
    with pytest.raises(InputError, match="channels is 2"):
        read_image(tmp_path / "grey.png", channels=2)


def test_white_stays_within_range_as_grey():
    assert with_channels(torch.ones(3, 9, 9), 1).max() <= 1


def test_resize_is_pillows_antialiased_bilinear(tmp_path, rng):
    array = rng.random((40, 60)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", array)
    twin = np.asarray(Image.fromarray(array).resize((9, 8), Image.Resampling.BILINEAR))
    image = read_image(tmp_path / "a.tif", image_size=(8, 9))
    torch.testing.assert_close(image[0], torch.from_numpy(twin.copy()), rtol=0, atol=1e-6)
    assert read_image(tmp_path / "a.tif", image_size=16).shape == (1, 16, 16)


@pytest.mark.parametrize("size", [7, 0, -3, (16, 4), (8, 8, 8), 8.5, (8.0, 8.0)])
def test_bad_size(size):
    with pytest.raises(InputError, match="image_size is"):
        resize(torch.zeros(1, 1, 9, 9), size)


def test_smallest_picture(tmp_path, picture):
    read_image(picture(tmp_path / "a.png", size=(MIN_SIDE, MIN_SIDE)))
    with pytest.raises(InputError, match=r"b\.png is 7 x 20 pixels.*at least 8"):
        read_image(picture(tmp_path / "b.png", size=(20, MIN_SIDE - 1)), image_size=16)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_and_empty_files_are_named(tmp_path, rgb8, suffix):
    path = tmp_path / f"broken.{suffix}"
    Image.fromarray(rgb8).resize((40, 40)).save(path)
    whole = path.read_bytes()
    for part in (len(whole) // 2, 20, 5):
        path.write_bytes(whole[:part])
        with pytest.raises(InputError, match=rf"broken\.{suffix} cannot be read as a picture"):
            read_image(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"broken\.{suffix} is empty"):
        read_image(path)


def test_truncated_16_bit_tiff(tmp_path, rgb16):
    tifffile.imwrite(tmp_path / "a.tif", rgb16)
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_image(tmp_path / "a.tif")


def test_16_bit_tiff_without_data_is_not_black(tmp_path, rgb16):
    tifffile.imwrite(tmp_path / "a.tif", rgb16)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages.first.tags["StripByteCounts"].overwrite(0)
    with pytest.raises(InputError, match="data missing"):
        read_image(tmp_path / "a.tif")


def test_no_picture_at_all(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"a\.png cannot be read as a picture"):
        read_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "b.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("limit", [H * W // 4, H * W - 1])
def test_decompression_bomb(tmp_path, picture, monkeypatch, limit, rgb16):
    picture(tmp_path / "a.png", size=(W, H))
    tifffile.imwrite(tmp_path / "a.tif", rgb16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for name in ("a.png", "a.tif"):
        with pytest.raises(InputError, match=r"a\.\w+ "):
            read_image(tmp_path / name)


def test_messages_are_one_line(tmp_path):
    path = Path(tmp_path / "a.png")
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value) and str(caught.value).count(str(path)) == 1


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png is no regular file, expected a picture file"):
        read_image(tmp_path / "a.png")
