"""All starting points of one problem, and the choice among them (paper, 3.3)."""

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stssad_fast import checkpoint
from stssad_fast.augment import Augmentation
from stssad_fast.datasets import Pictures, batches
from stssad_fast.errors import InputError
from stssad_fast.tuning.density import GaussianDensity
from stssad_fast.tuning.hypergradient import Tensors
from stssad_fast.tuning.tuner import Tuner, TunerConfig


@dataclass(frozen=True)
class Progress:
    """Where a search is; given to the callback after every step.

    Attributes:
        start, starts: index of the present start, and how many there are.
        step, steps: done and to do in this start, warm-up included.
        warming_up: whether the augmentation is still fixed.
        train_loss, validation_loss: of the last iteration, None before the first.
        hyperparameters: present values by name.
    """

    start: int
    starts: int
    step: int
    steps: int
    warming_up: bool
    train_loss: float | None
    validation_loss: float | None
    hyperparameters: dict[str, float]


@torch.no_grad()
def embeddings(detector: nn.Module, images: Pictures) -> Iterator[NDArray[np.float32]]:
    """Embeddings (n, D) of pictures, a batch at a time, with batch norm's running statistics."""
    detector.eval()
    device = next(detector.parameters()).device
    for batch in batches(images):
        part: NDArray[np.float32] = detector(batch.to(device))[0].cpu().numpy()
        yield part


def embed(detector: nn.Module, images: Pictures) -> NDArray[np.float32]:
    """All :func:`embeddings` (N, D)."""
    return np.concatenate(list(embeddings(detector, images)))


def distances(
    detector: nn.Module, density: GaussianDensity, images: Pictures
) -> NDArray[np.float64]:
    """Squared Mahalanobis distances (N,) of pictures, of which one batch is held at a time."""
    return np.concatenate([density.distance(part) for part in embeddings(detector, images)])


def score_variance(scores: NDArray[np.float64]) -> float:
    """``S``, the sample variance of the test scores (paper, Eq. 6)."""
    return float(np.var(scores, ddof=1))


def score_shift(distances: NDArray[np.float64], train_distances: NDArray[np.float64]) -> float:
    """How many times farther from the training density the test set lies, as a logarithm.

    Difference of the medians of the log squared Mahalanobis distances: unlike ``S`` it does not
    depend on the scale of the scores, which differs between starts.
    """
    return float(np.median(np.log(distances)) - np.median(np.log(train_distances)))


def choose(results: Sequence[dict[str, Any]], rule: str = "score_variance") -> int:
    """Index of the start to keep, the one with the largest ``rule``.

    Raises:
        InputError: every start diverged.
    """
    values = [-np.inf if result[rule] is None else result[rule] for result in results]
    if not np.isfinite(max(values)):
        raise InputError(
            "every start diverged before its first iteration; lower learning_rate or raise "
            "batch_size"
        )
    return int(np.argmax(values))


class Search:
    """Tunes from every starting point, one after the other, and can be stopped and continued.

    All starts share one seed, hence the initial network and the order of the batches, so that they
    differ by their starting point alone.

    Args:
        train, test: pictures (N, C, H, W) in [0, 1], wherever they are.
        starts: one augmentation per starting point.
        make_detector: a new detector; called with the global generator seeded.
        config: of every start.
        seed: of everything random.
        path: checkpoint file, written at least every ``interval`` seconds; None for none.
        identity: JSON-able values that a checkpoint must agree on to be continued.
        device: to work on.
    """

    def __init__(
        self,
        train: Pictures,
        test: Pictures,
        starts: Sequence[Augmentation],
        make_detector: Callable[[], nn.Module],
        config: TunerConfig,
        seed: int,
        path: Path | None = None,
        interval: float = 10.0,
        identity: Any = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.train, self.test, self.starts = train, test, starts
        self.device = torch.device(device)
        self.make_detector, self.config, self.seed = make_detector, config, seed
        self.path, self.interval = path, interval
        self.results: list[dict[str, Any]] = []
        self.tensors: list[Tensors] = []
        self._tuner: Tuner | None = None
        self._seconds = 0.0
        self._initial: dict[str, float] = {}
        # It goes through all pictures, which only a checkpoint is worth.
        self._identity = path and fingerprint(train, test, [asdict(config), identity])

    def run(self, callback: Callable[[Progress], None] | None = None) -> None:
        """Go on to the end. Ctrl-C or SIGTERM, with a checkpoint, ends the present step first.

        Raises:
            KeyboardInterrupt: stopped; the checkpoint holds everything done so far.
            InputError: the checkpoint cannot be written.
        """
        with _postponed_interrupt(self.path is not None) as interrupted:
            saved = time.monotonic()
            while len(self.results) < len(self.starts):
                if self._tuner is None:
                    self._tuner = self._begin(len(self.results))
                began = time.monotonic()
                self._tuner.step()
                self._seconds += time.monotonic() - began
                if callback:
                    callback(self._progress(self._tuner))
                if self._tuner.done:
                    self._finish(self._tuner)
                now = time.monotonic()
                if self.path and (interrupted() or now - saved >= self.interval):
                    self.save()
                    saved = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
            if self.path:
                self.save()

    def _begin(self, index: int) -> Tuner:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            detector = self.make_detector().to(self.device)
        augmentation = self.starts[index].to(self.device)
        generator = torch.Generator(self.device).manual_seed(self.seed)
        if not self.config.strategy.endswith("order"):
            augmentation.draw_(generator)
        self._seconds, self._initial = 0.0, augmentation.describe()
        return Tuner(detector, augmentation, self.train, self.test, self.config, generator)

    def _finish(self, tuner: Tuner) -> None:
        began = time.monotonic()
        iteration = tuner.best_iteration
        result: dict[str, Any] = {
            "initial": self._initial,
            "final": tuner.augmentation.describe(),
            "iteration": iteration,
            "stopped": tuner.stopped,
            "train_loss": tuner.history["train_loss"][iteration] if iteration >= 0 else None,
            "validation_loss": tuner.history["validation_loss"][iteration]
            if iteration >= 0
            else None,
            "score_variance": None,
            "score_shift": None,
            "scores": None,
            "history": tuner.history,
        }
        tensors: Tensors = {}
        if iteration >= 0:
            trained = embed(tuner.detector, self.train)
            density = GaussianDensity.fit(trained)
            found = distances(tuner.detector, density, self.test)
            scores = density.score_at(found)
            result |= {
                "score_variance": score_variance(scores),
                "score_shift": score_shift(found, density.distance(trained)),
                "scores": scores.tolist(),
            }
            tensors = {
                **checkpoint.prefixed("detector", tuner.detector.state_dict()),
                **checkpoint.prefixed("augmentation", tuner.augmentation.state_dict()),
                **checkpoint.prefixed("density", density.state()),
            }
        result["seconds"] = self._seconds + time.monotonic() - began
        self.results.append(result)
        self.tensors.append({name: tensor.detach().clone() for name, tensor in tensors.items()})
        self._tuner = None

    def _progress(self, tuner: Tuner) -> Progress:
        history = tuner.history
        return Progress(
            len(self.results),
            len(self.starts),
            tuner.step_count,
            tuner.total_steps,
            tuner.step_count <= self.config.warm_up,
            history["train_loss"][-1] if history else None,
            history["validation_loss"][-1] if history else None,
            tuner.augmentation.describe(),
        )

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        assert self.path is not None
        tensors: Tensors = {}
        for index, kept in enumerate(self.tensors):
            tensors |= checkpoint.prefixed(f"start{index}", kept)
        current = None
        if self._tuner is not None:
            state, current = self._tuner.state()
            tensors |= checkpoint.prefixed("current", state)
            current |= {"seconds": self._seconds, "initial": self._initial}
        values = {
            "identity": self._identity,
            "seed": self.seed,
            "results": self.results,
            "current": current,
        }
        checkpoint.save(self.path, tensors, values)

    def resume(self) -> None:
        """Go back to what the checkpoint holds; without one, start from the beginning.

        Raises:
            InputError: the checkpoint is damaged, or of other pictures or parameters.
        """
        if self.path is None or not self.path.exists():
            return
        tensors, values = checkpoint.load(self.path)
        if values["identity"] != self._identity:
            raise InputError(
                f"{self.path} is of another run: its pictures or parameters differ from these. "
                "Repeat the command that began it, or choose another folder"
            )
        self.results = values["results"]
        self.tensors = [
            checkpoint.under(f"start{index}", tensors) for index in range(len(self.results))
        ]
        if values["current"] is not None:
            self._tuner = self._begin(len(self.results))
            self._tuner.load_state(checkpoint.under("current", tensors), values["current"])
            self._seconds = values["current"]["seconds"]
            self._initial = values["current"]["initial"]


def saved_seed(path: Path) -> int | None:
    """The seed in a checkpoint, None if there is no checkpoint."""
    return int(checkpoint.load(path)[1]["seed"]) if path.exists() else None


def fingerprint(train: Pictures, test: Pictures, values: Any) -> str:
    """Short digest of the pictures, wherever they are, and of JSON-able values."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=repr).encode())
    for images in (train, test):
        digest.update(repr(tuple(images.shape)).encode())
        for batch in batches(images):
            digest.update(batch.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]


@contextmanager
def _postponed_interrupt(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag; a second one acts as usual."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received = False
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        nonlocal received
        received = True
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield lambda: received
    finally:
        restore()
