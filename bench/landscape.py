"""Validation losses at angles around the one that a detector was trained with: docs/method.md.

    python bench/landscape.py --normal 2 --anomaly 3 --start 225

Digits, in the setting of the experiments. The detector of one start, where the losses choose its
iterate, is held fixed while pictures are turned by other angles; batch norm and batches are as in
tuning. One line of JSON: the angle that was found, and L_val and MMD1 at angles from there.
"""

import argparse
import json

import torch

from stssad_fast import STSSAD, Rotation
from stssad_fast.datasets import load_digits
from stssad_fast.experiments import settings
from stssad_fast.ops import mean_distance_loss
from stssad_fast.tuning.mmd import mmd_loss

BATCHES = 8


@torch.no_grad()
def losses(model, angle, train, test):
    """Averages over batches: the mean-distance loss, and the MMD after the same normalisation."""
    detector, generator = model.detector_.train(), torch.Generator().manual_seed(1)
    total = torch.zeros(2)
    for _ in range(BATCHES):
        images, others = (
            rows[torch.randperm(len(rows), generator=generator)[: model.batch_size]]
            for rows in (train, test)
        )
        sets = (images, Rotation(angle)(images), others)
        parts = detector(torch.cat(sets))[0].split([len(rows) for rows in sets])
        total += torch.stack([mean_distance_loss(*parts), mmd_loss(*parts, normalize=True)])
    return (total / BATCHES).tolist()


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--normal", type=int, default=2)
    parser.add_argument("--anomaly", type=int, default=3)
    parser.add_argument("--start", type=float, default=225.0)
    parser.add_argument("--distance", default="mean_distance", help="the loss that it is tuned by")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = load_digits(arguments.normal, arguments.anomaly, image_size=16)
    parameters = settings.parameters("semantic", "small", {})["tuned"]
    parameters |= {"starts": [{"angle": arguments.start}], "random_state": arguments.seed}
    model = STSSAD(**parameters, validation_distance=arguments.distance)
    model.fit(split.train_images, split.test_images)
    found = model.augmentation_.describe()["angle"]
    line = {"angle": round(found, 1), "from there": [], "L_val": [], "MMD1": []}
    for step in range(-90, 91, 15):
        values = losses(model, found + step, split.train_images, split.test_images)
        line["from there"].append(step)
        line["L_val"].append(round(values[0], 3))
        line["MMD1"].append(round(values[1], 3))
    print(json.dumps(line))


if __name__ == "__main__":
    main()
