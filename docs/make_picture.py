"""Draw docs/picture.png, the picture of the README, from the models of ``make demo``.

python docs/make_picture.py runs/demo
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from stssad_fast import STSSAD
from stssad_fast.cli.demo import CASES

COUNT = 8
TITLES = {"digits": ("6s", "9s"), "bricks": ("bricks", "bricks with holes")}


def main() -> None:
    """One block per case: normal, augmented, anomalous."""
    folder = Path(sys.argv[1])
    rows: list[tuple[str, Tensor]] = []
    for case in CASES:
        model = STSSAD.load(folder / f"{case.name}.safetensors")
        split = case.load()
        generator = torch.Generator().manual_seed(1)
        normal = split.train_images[:COUNT]
        with torch.no_grad():
            augmented = model.augmentation_(normal, generator=generator)
        anomalous = split.test_images[torch.from_numpy(split.test_labels == 1)][:COUNT]
        found = ", ".join(
            f"{name} {value:.0f}°" if name == "angle" else f"{name} {value:.2g}"
            for name, value in model.augmentation_.describe().items()
        )
        trained, hidden = TITLES[case.name]
        rows += [
            (f"normal: {trained}", normal),
            (f"augmented: {found}", augmented),
            (f"unknown anomalies: {hidden}", anomalous),
        ]
    figure = Figure(figsize=(8, 7.6), dpi=110, facecolor="white")
    axes = figure.subplots(len(rows), COUNT)
    for (title, images), line in zip(rows, axes, strict=True):
        line[0].set_title(title, loc="left", fontsize=10, pad=4)
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            axis.axis("off")
    figure.subplots_adjust(left=0.01, right=0.99, top=0.96, bottom=0.01, wspace=0.04, hspace=0.3)
    figure.savefig(Path(__file__).with_name("picture.png"))


if __name__ == "__main__":
    main()
