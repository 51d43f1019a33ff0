"""Which augmentation fits a user's pictures: candidates ranked without labels.

A detector learns to tell normal pictures from augmented ones, once for every candidate. One whose
pseudo-anomalies resemble the anomalies of the test set scores that set far from normal pictures it
has not seen; how far, in standard deviations, is what candidates are ranked by.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from stssad_fast.augment import Augmentation, catalogue
from stssad_fast.augment.catalogue import Named
from stssad_fast.augment.catalogue.base import OnOff
from stssad_fast.augment.catalogue.geometric import Rotate
from stssad_fast.datasets import Images, Pictures, as_train_test
from stssad_fast.detectors import MIN_IMAGE_SIZE
from stssad_fast.errors import InputError
from stssad_fast.estimator import STSSAD
from stssad_fast.ops import mean_distance_loss
from stssad_fast.tuning.selection import score_variance

HELD_OUT = 4
"""One training picture in so many is not trained on."""

MIN_TRAIN = 8

PARAMETERS: dict[str, Any] = {"depth": 10, "width": 8, "batch_size": 32, "steps": 200}
"""Of the detectors: those of :class:`STSSAD`, and how many updates each gets."""

_GIVEN = {"augmentation", "starts", "strategy", "warm_up", "iterations", "random_state", "device"}
"""Parameters of :class:`STSSAD` that are not left to choose."""


class Changing(Augmentation):
    """A candidate in a form that changes every picture.

    Flip, invert and rotate leave pictures as they are by chance, which would be taught as anomalous
    here: instead they change each in one of their other classes.
    """

    def __init__(self, candidate: Named) -> None:
        super().__init__()
        if candidate.name == "identity":
            raise InputError("identity changes no picture, so there is nothing to learn from it")
        self.module = candidate.made()

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        module, device = self.module, image.device
        if not isinstance(module, OnOff | Rotate):
            made: Tensor = module(image, generator=generator)
            return made
        drawn = torch.randint(
            1, module.classes, image.shape[:1], generator=generator, device=device
        )
        changed = torch.empty_like(image)
        for k in range(1, module.classes):
            rows = drawn == k
            changed[rows] = module.of_class(image[rows], k, generator=generator)
        return changed

    def describe(self) -> dict[str, float]:
        return {}

    def draw_(self, generator: torch.Generator) -> None:
        pass


CANDIDATES: tuple[Named, ...] = (
    *(Named(name) for name in catalogue.NAMES if name != "identity"),
    *(Named("cutout", {"size": size}) for size in (0.1, 0.3, 0.6)),
    *(Named("cutdiff", {"size": size}) for size in (0.001, 0.01, 0.1)),
)
"""The catalogue as in the study, and sizes of two local augmentations."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate on one test set without its labels.

    Attributes:
        candidate: which.
        separation: by which candidates are ranked, the largest first: difference of the means of
            the log squared Mahalanobis distances of the test set and of held-out normal pictures,
            in standard deviations of the latter. 0: the test set looks normal.
        alignment: ``L_val`` of training, augmented and test embeddings (ST-SSAD, Eq. 2-3); low
            where the test set lies at the training and the augmented pictures.
        variance: ``S``, of the test scores (Eq. 6).
        train_loss: cross-entropy of normal and augmented pictures in the last update; near 0.69
            where the two cannot be told apart, and the candidate teaches nothing.
        held_out, test: log squared distances (n,) of held-out normal and of test pictures.
        embeddings: (n, D) by name: train, augmented, test.
    """

    candidate: Named
    separation: float
    alignment: float
    variance: float
    train_loss: float
    held_out: NDArray[np.float64]
    test: NDArray[np.float64]
    embeddings: Mapping[str, NDArray[np.float32]]


class Learned:
    """A detector of one candidate, which has seen normal pictures alone and can judge test sets.

    Args:
        train: normal pictures (N, C, H, W), of which every fourth is held out.
        candidate: what to learn to tell them from.
        seed: of everything random.
        parameters: like :data:`PARAMETERS`, which hold for those left out.
        device: as for :class:`STSSAD`.

    Raises:
        InputError: there are too few pictures, the candidate or the parameters cannot be used, or
            training diverged.
        ValueError: a parameter is out of range.
    """

    def __init__(
        self,
        train: Tensor,
        candidate: Named,
        seed: int = 0,
        parameters: Mapping[str, Any] | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        if len(train) < MIN_TRAIN:
            raise InputError(
                f"there are {len(train)} training pictures; expected at least {MIN_TRAIN}, as some "
                "are held out"
            )
        steps, settings = _settings(parameters)
        held = torch.arange(len(train)) % HELD_OUT == 0
        kept = train[~held]
        augmentation = Changing(candidate)
        # A static augmentation, and no test set: the validation loss of the last step, which the
        # estimator wants, is of training pictures.
        self.model = STSSAD(
            augmentation,
            strategy="random_static",
            warm_up=steps - 1,
            iterations=1,
            random_state=seed,
            device=device,
            **settings,
        ).fit(kept, kept)
        generator = torch.Generator().manual_seed(seed)
        augmented = augmentation.cpu()(kept, generator=generator)
        self.candidate = candidate
        self.train_loss = float(self.model.starts_[0]["train_loss"])
        self._trained, self._augmented = self.model.embed(kept), self.model.embed(augmented)
        self._held_out = self._logs(self.model.embed(train[held]))

    def judge(self, test: Tensor) -> Evidence:
        """What the unlabelled pictures (M, C, H, W) of a test set say of the candidate."""
        embedded = self.model.embed(test)
        found = self._logs(embedded)
        spread = float(self._held_out.std())
        shift = float(found.mean() - self._held_out.mean())
        sets = (torch.from_numpy(rows) for rows in (self._trained, self._augmented, embedded))
        return Evidence(
            self.candidate,
            shift / spread if spread > 0 else 0.0,
            float(mean_distance_loss(*sets)),
            score_variance(self.model.density_.score(embedded)),
            self.train_loss,
            self._held_out,
            found,
            {"train": self._trained, "augmented": self._augmented, "test": embedded},
        )

    def scores(self, test: Tensor) -> NDArray[np.float64]:
        """Anomaly scores (M,)."""
        return self.model.anomaly_scores(test)

    def _logs(self, embedding: NDArray[np.float32]) -> NDArray[np.float64]:
        logs: NDArray[np.float64] = np.log(self.model.density_.distance(embedding))
        return logs


def recommend(
    train_images: Images,
    test_images: Images,
    candidates: Sequence[Named | str] | None = None,
    *,
    random_state: int | np.random.RandomState | None = 0,
    parameters: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    callback: Callable[[int, int], None] | None = None,
) -> list[Evidence]:
    """Candidates by how well they fit an unlabelled test set, the best first.

    Args:
        train_images: normal pictures, at least 8, and not more than memory holds.
        test_images: unlabelled pictures to find anomalies in, at least 2.
        candidates: what to compare: names as "rotate" or "cutout:size=0.2" (:meth:`Named.parse`),
            or :class:`Named`. Default: :data:`CANDIDATES`, of pictures that are not square without
            those that need square ones (rotate and geom).
        random_state: seed, the same for all candidates.
        parameters: of the detectors, in place of :data:`PARAMETERS`: ``steps``, how many updates
            each gets, at least 1, and those of :class:`STSSAD` but augmentation, starts, strategy,
            warm_up, iterations, random_state and device.
        device: ``"auto"`` (a GPU if there is one), or a torch device.
        callback: called after every candidate with how many are done and to do.

    Raises:
        InputError: the pictures, a candidate or the parameters cannot be used, which is found
            before any training, or training diverged.
        ValueError: random_state or a parameter is out of range.
    """
    train, test = map(_tensor, as_train_test(train_images, test_images, min_side=MIN_IMAGE_SIZE))
    drawn = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    seed = int(random_state if isinstance(random_state, int | np.integer) else drawn)
    chosen = _candidates(candidates, train.shape[2] == train.shape[3])
    for candidate in chosen:
        Changing(candidate)(train[:2], generator=torch.Generator().manual_seed(0))
    found = []
    for candidate in chosen:
        found.append(Learned(train, candidate, seed, parameters, device).judge(test))
        if callback:
            callback(len(found), len(chosen))
    return sorted(found, key=lambda evidence: -evidence.separation)


def _candidates(candidates: Any, square: bool) -> list[Named]:
    """What to compare on pictures that are square or not."""
    if candidates is None:
        return [each for each in CANDIDATES if square or not each.made().needs_square]
    if isinstance(candidates, str) or not isinstance(candidates, Sequence) or not candidates:
        raise InputError(
            f"candidates is {candidates!r}; expected a list such as ['rotate', 'cutout:size=0.2'], "
            "or None for all"
        )
    for each in candidates:
        if not isinstance(each, Named | str):
            raise InputError(
                f"candidates has {each!r}; expected names such as 'cutout:size=0.2', or Named"
            )
    return [Named.parse(each) if isinstance(each, str) else each for each in candidates]


def _settings(parameters: Any) -> tuple[int, dict[str, Any]]:
    """Updates of a detector, and the parameters of the estimator."""
    if not isinstance(parameters, Mapping | None):
        raise InputError(f"parameters is {parameters!r}; expected a dict such as {PARAMETERS}")
    settings = {**PARAMETERS, **(parameters or {})}
    known = sorted({"steps", *STSSAD().get_params()} - _GIVEN)
    for name in settings:
        if name not in known:
            raise InputError(f"parameters has {name!r}; choose from {', '.join(known)}")
    steps = settings.pop("steps")
    if not isinstance(steps, Integral) or steps < 1:
        raise InputError(f"steps is {steps!r}; expected a whole number of updates, at least 1")
    return int(steps), settings


def _tensor(images: Pictures) -> Tensor:
    # Candidates draw by a generator of the CPU, wherever they are learned.
    return images.cpu() if isinstance(images, Tensor) else images[np.arange(len(images))]
