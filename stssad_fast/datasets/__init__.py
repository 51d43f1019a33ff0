"""Readers: files, folders and benchmark formats become float tensors in [0, 1].

`read_image` and `read_folder` take pictures as people have them (MVTec AD's layout gives labels);
`load_digits` and `load_textures` need no download; `read_mnist`, `read_svhn`, `read_cifar10` and
`read_npz` read benchmark files into `Labelled` sets, `read_labelled` any of these, and `one_vs`
makes a `Split` of normal and anomalous pictures; `load_elpv` reads an installed package.
`as_images`, `as_pictures`, `as_train` and `as_train_test` check what comes from elsewhere.
`Pictures` need not lie in memory: `PictureFiles` and `ConvertedPictures` read rows when they are
asked for. All raise `InputError` for what cannot be used, and know nothing of detectors or tuning.
"""

from stssad_fast.datasets.cifar10 import read_cifar10
from stssad_fast.datasets.digits import load_digits
from stssad_fast.datasets.elpv import load_elpv
from stssad_fast.datasets.folder import MEMORY, ImageSet, list_pictures, read_folder
from stssad_fast.datasets.given import Images, as_pictures, as_train, as_train_test
from stssad_fast.datasets.idx import read_idx, read_mnist
from stssad_fast.datasets.images import MIN_SIDE, SUFFIXES, read_image, resize, with_channels
from stssad_fast.datasets.labelled import Labelled, Split, one_vs
from stssad_fast.datasets.npz import read_labelled, read_npz
from stssad_fast.datasets.pictures import (
    BATCH,
    ConvertedPictures,
    PictureFiles,
    Pictures,
    ReadAhead,
    batches,
    mean_and_std,
)
from stssad_fast.datasets.svhn import read_svhn
from stssad_fast.datasets.textures import load_textures
from stssad_fast.datasets.validate import as_images

__all__ = [
    "BATCH",
    "MEMORY",
    "MIN_SIDE",
    "SUFFIXES",
    "ConvertedPictures",
    "ImageSet",
    "Images",
    "Labelled",
    "PictureFiles",
    "Pictures",
    "ReadAhead",
    "Split",
    "as_images",
    "as_pictures",
    "as_train",
    "as_train_test",
    "batches",
    "list_pictures",
    "load_digits",
    "load_elpv",
    "load_textures",
    "mean_and_std",
    "one_vs",
    "read_cifar10",
    "read_folder",
    "read_idx",
    "read_image",
    "read_labelled",
    "read_mnist",
    "read_npz",
    "read_svhn",
    "resize",
    "with_channels",
]
