"""MNIST, SVHN, CIFAR-10: small files in the true formats."""

import gzip
import io
import pickle
import struct
from itertools import chain
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import savemat

from stssad_fast.datasets import one_vs, read_cifar10, read_idx, read_mnist, read_svhn
from stssad_fast.datasets.labelled import Labelled
from stssad_fast.errors import InputError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array):
    header = struct.pack(
        f">BBBB{array.ndim}I", 0, 0, CODES[array.dtype.str[1:]], array.ndim, *array.shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


arrays = st.sampled_from(list(CODES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=4, max_side=5, min_side=0))
)


@given(array=arrays, zipped=st.booleans())
def test_idx_roundtrip(tmp_path_factory, array, zipped):
    path = tmp_path_factory.getbasetemp() / "roundtrip"
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, 1) if zipped else data)
    read = read_idx(path)
    assert read.dtype == array.dtype and read.shape == array.shape and read.flags.writeable
    np.testing.assert_array_equal(read, array)


WHOLE = idx_bytes(np.arange(24, dtype="u1").reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG" + WHOLE, "no IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x07" + WHOLE[3:], "no IDX file"),
        (WHOLE[:10], "ends within its header"),
        (WHOLE[:-1], r"39 bytes long, expected 40 for the shape \(2, 3, 4\)"),
        (WHOLE + b"\0", "41 bytes long, expected 40"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "expected"),
        (gzip.compress(WHOLE)[:-12], "cannot be read"),
        (b"\x1f\x8b" + b"x" * 30, "cannot be read"),
    ],
    ids=[  # of their own: those made from the bytes would hold the time that gzip notes
        "empty",
        "picture",
        "no type",
        "part of the header",
        "too short",
        "too long",
        "too many dimensions",
        "part of a gzip",
        "no gzip",
    ],
)
def test_bad_idx(tmp_path, data, words):
    (tmp_path / "a-idx").write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        read_idx(tmp_path / "a-idx")
    assert "a-idx" in str(caught.value)


def test_missing_idx(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_idx(tmp_path / "a")


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist(tmp_path, rng, zipped):
    sets = {}
    for part, count in (("train", 6), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count, np.uint8)
        sets[part] = images, labels
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(array)
            path = tmp_path / f"{part}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)
    for read, (images, labels) in zip(read_mnist(tmp_path), sets.values(), strict=True):
        np.testing.assert_array_equal(read.images.numpy(), images[:, None])
        np.testing.assert_array_equal(read.labels, labels)
        assert read.images.dtype == torch.uint8 and read.labels.dtype == np.int64
    suffix = ".gz" if zipped else ""
    (tmp_path / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    with pytest.raises(InputError, match="belong together"):
        read_mnist(tmp_path)
    (tmp_path / f"t10k-labels-idx1-ubyte{suffix}").unlink()
    with pytest.raises(InputError, match="no file t10k-labels-idx1-ubyte"):
        read_mnist(tmp_path)


def test_svhn(tmp_path, rng):
    images = rng.integers(0, 256, (32, 32, 3, 5), np.uint8)
    labels = np.array([[10], [1], [9], [10], [5]], np.uint8)
    savemat(tmp_path / "train_32x32.mat", {"X": images, "y": labels}, do_compression=True)
    data = read_svhn(tmp_path / "train_32x32.mat")
    assert data.labels.tolist() == [0, 1, 9, 0, 5]
    np.testing.assert_array_equal(data.images.numpy()[3, 1], images[:, :, 1, 3])


def test_bad_svhn(tmp_path):
    path = tmp_path / "a.mat"
    with pytest.raises(InputError, match="does not exist"):
        read_svhn(path)
    savemat(path, {"X": np.zeros((32, 32, 3, 5), np.uint8), "y": np.ones((4, 1))})
    with pytest.raises(InputError, match="not SVHN"):
        read_svhn(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="cannot be read as a MATLAB file"):
        read_svhn(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read as a MATLAB file"):
        read_svhn(path)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2's str and NumPy's names as NumPy 1 had them, as CIFAR-10 does."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)

    def save_str(self, obj):
        self.save_bytes(obj.encode())

    def save_global(self, obj, name=None):
        names = {"_reconstruct": "numpy.core.multiarray", "ndarray": "numpy", "dtype": "numpy"}
        name = name or obj.__name__
        module = names.get(name, getattr(obj, "__module__", ""))
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(obj)

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str
    dispatch[type] = save_global
    dispatch[type(len)] = save_global


def write_batch(path, data, labels):
    with path.open("wb") as file:
        Python2Pickler(file, 2).dump(
            {"batch_label": "one", "labels": labels, "data": data, "filenames": ["a.png"]}
        )


@pytest.fixture
def cifar(tmp_path, rng):
    batches = []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = rng.integers(0, 256, (4, 3072), np.uint8)
        labels = rng.integers(0, 10, 4).tolist()
        write_batch(tmp_path / name, data, labels)
        batches.append((data, labels))
    return tmp_path, batches


def test_cifar10(cifar):
    folder, batches = cifar
    head = (folder / "test_batch").read_bytes()
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in head and b"_codecs" not in head
    train, test = read_cifar10(folder)
    assert train.images.shape == (20, 3, 32, 32) and train.images.dtype == torch.uint8
    data = np.concatenate([data for data, _ in batches[:5]])
    np.testing.assert_array_equal(train.images.numpy().reshape(20, -1), data)
    assert train.labels.tolist() == list(chain(*(labels for _, labels in batches[:5])))
    assert test.labels.tolist() == batches[5][1]
    assert pickle.loads(head, encoding="bytes").keys() >= {b"data", b"labels"}


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_is_refused_unopened(cifar, protocol):
    folder, _ = cifar
    victim = folder / "victim"
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": Malicious(victim)}, protocol))
    with pytest.raises(InputError, match=r"data_batch_1 asks for .*open, .*malicious"):
        read_cifar10(folder)
    assert not victim.exists()


def test_cifar10_in_columns_first_order(cifar):
    folder, batches = cifar
    data, labels = batches[5]
    write_batch(folder / "test_batch", np.asfortranarray(data), labels)
    images = read_cifar10(folder)[1].images
    np.testing.assert_array_equal(images.numpy().reshape(4, -1), data)


def test_bad_cifar10(cifar):
    folder, batches = cifar
    data, labels = batches[0]
    path = folder / "data_batch_1"
    for wrong, words in (
        ((data.astype(np.int64), labels), "asks for an array of b'i8', expected uint8"),
        ((data[:, :3], labels), "no batch of CIFAR-10"),
        ((data, labels[:-1]), "no batch of CIFAR-10"),
        ((data.reshape(-1), labels), "no batch of CIFAR-10"),
        ((data, ["6"] * 4), "no batch of CIFAR-10"),
    ):
        write_batch(path, *wrong)
        with pytest.raises(InputError, match=f"data_batch_1.*{words}"):
            read_cifar10(folder)
    write_batch(path, data, labels)
    whole = path.read_bytes()
    for part in (len(whole) // 2, 0):
        path.write_bytes(whole[:part])
        with pytest.raises(InputError, match="data_batch_1 cannot be read"):
            read_cifar10(folder)
    path.unlink()
    with pytest.raises(InputError, match="data_batch_1 does not exist"):
        read_cifar10(folder)


@pytest.fixture
def ten():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 1, 9, 9)
    return Labelled(images, np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2]))


def test_one_vs(ten):
    split = one_vs(ten, ten, 0, 2)
    assert (split.train_images[:, 0, 0, 0] * 255).round().tolist() == [0, 3, 6]
    assert (split.test_images[:, 0, 0, 0] * 255).round().tolist() == [0, 2, 3, 5, 6, 8, 9]
    assert split.test_labels.tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert split.test_kinds == ["good", "2", "good", "2", "good", "2", "2"]
    assert one_vs(ten, ten, 0, [1, 2]).test_labels.sum() == 7
    assert one_vs(ten, ten, 0).test_labels.sum() == 7
    assert one_vs(ten, ten, 0, 2, image_size=16).train_images.shape == (3, 1, 16, 16)


@pytest.mark.parametrize(("normal", "anomalies"), [(0, 0), (0, []), (7, 1), (0, [1, 7])])
def test_one_vs_refuses(ten, normal, anomalies):
    with pytest.raises(InputError, match=r"expected at least one|no pictures of class 7"):
        one_vs(ten, ten, normal, anomalies)


def test_pickler_writes_what_pickle_reads():
    file = io.BytesIO()
    Python2Pickler(file, 2).dump({"data": np.arange(3, dtype=np.uint8)})
    read = pickle.loads(file.getvalue(), encoding="bytes")
    assert read[b"data"].tolist() == [0, 1, 2]
