"""Small PNG pictures, as data URIs, for the rows of the report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from stssad_fast.report.case import Array
from stssad_fast.report.collect import PICTURES_PER_ROW, SEED, Facts
from stssad_fast.report.wording import number

LARGEST_SIDE = 224  # px; a tile is at most about 130 CSS px wide
PIXELATED_BELOW = 64  # px; smaller pictures are enlarged as squares, not blurred


@dataclass(frozen=True)
class Tile:
    """One picture of a row."""

    source: str
    alt: str
    pixelated: bool
    caption: str = ""
    truth: str = ""
    """"normal", "anomaly" or, where unknown, empty."""
    name: str = ""


@dataclass(frozen=True)
class Row:
    """A row of pictures under one heading."""

    title: str
    explanation: str
    role: str
    tiles: list[Tile]


def data_uri(image: Tensor) -> str:
    """A (C, H, W) picture in [0, 1], C 1 or 3, as a PNG data URI, at most 224 px on a side."""
    array = np.nan_to_num(image.detach().cpu().float().numpy()).clip(0, 1)
    pixels = (array * 255).round().astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def rows(facts: Facts) -> list[Row]:
    """Normal, augmented and highest-scored pictures, and true anomalies where labels exist."""
    result = [
        Row(
            "Normal",
            "training pictures, as they are",
            "train",
            [_tile(image, f"Normal training picture {i + 1}") for i, image in _each(facts, True)],
        ),
        Row(
            "Augmented",
            "the same pictures under the tuned augmentation",
            "augmented",
            [_tile(image, f"Training picture {i + 1}, augmented") for i, image in _each(facts)],
        ),
        Row(
            "Most anomalous",
            "the test pictures with the highest scores, highest first",
            "test",
            [_test_tile(facts, int(i)) for i in _highest(facts.scores)],
        ),
    ]
    if facts.labels is not None and facts.labels.any():
        anomalies = np.random.default_rng(SEED).permutation(np.flatnonzero(facts.labels))
        result.append(
            Row(
                "True anomalies",
                "drawn at random from the test pictures labelled anomalous",
                "anomaly",
                [_test_tile(facts, int(i)) for i in anomalies[:PICTURES_PER_ROW]],
            )
        )
    return result


def _each(facts: Facts, plain: bool = False) -> list[tuple[int, Tensor]]:
    return list(enumerate(facts.train_sample if plain else facts.augmented_sample))


def _highest(scores: Array) -> Array:
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    return order[:PICTURES_PER_ROW]


def _tile(image: Tensor, alt: str) -> Tile:
    return Tile(data_uri(image), alt, max(image.shape[-2:]) < PIXELATED_BELOW)


def _test_tile(facts: Facts, index: int) -> Tile:
    case, score = facts.case, number(float(facts.scores[index]))
    truth = "" if facts.labels is None else ("anomaly" if facts.labels[index] else "normal")
    kind = truth if case.kinds is None else str(case.kinds[index])
    name = "" if case.names is None else str(case.names[index])
    plain = _tile(case.test_images[index], f"Test picture {name or index + 1}, score {score}")
    return Tile(
        plain.source,
        plain.alt + (f", in truth {truth}" if truth else ""),
        plain.pixelated,
        caption=f"{score} · {kind}" if kind else score,
        truth=truth,
        name=name,
    )
