"""All starting points of one problem, and the choice among them (paper, 3.3)."""

import glob
import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stssad_fast import checkpoint
from stssad_fast.augment import Augmentation
from stssad_fast.datasets import Pictures, batches
from stssad_fast.errors import Diverged, InputError
from stssad_fast.tuning import together
from stssad_fast.tuning.density import GaussianDensity
from stssad_fast.tuning.distributed import DistributedTuner
from stssad_fast.tuning.hypergradient import Tensors
from stssad_fast.tuning.ranks import Ranks
from stssad_fast.tuning.tuner import Tuner, TunerConfig

FORMAT = 2
"""Of checkpoints."""

Rule = Literal["score_shift", "score_variance", "loss"]
"""What a start is kept by; see :func:`criterion`."""

LOOK_EVERY = 10
"""Iterations between two looks at the scores (:meth:`Search._look`)."""

Kept = dict[int, tuple[dict[str, Any], Tensors]]
"""Values and tensors, by start."""

Farthest = tuple[float, int, Tensors]
"""Score shift of an iterate, its index, and what :meth:`Tuner.iterate` gave there."""


@dataclass(frozen=True)
class Progress:
    """Where a search is; given to the callback after every step.

    Attributes:
        start, starts: index of the present start, and how many there are.
        step, steps: done and to do in this start, warm-up included.
        ended: whether this was the last step of this start.
        warming_up: whether the augmentation is still fixed.
        train_loss, validation_loss: of the last iteration, None before the first.
        hyperparameters: present values by name.
    """

    start: int
    starts: int
    step: int
    steps: int
    ended: bool
    warming_up: bool
    train_loss: float | None
    validation_loss: float | None
    hyperparameters: dict[str, float]


@dataclass(frozen=True)
class _Scored:
    """What a detector gives: the density of training pictures, test scores (M,) and their shift."""

    density: GaussianDensity
    scores: NDArray[np.float64]
    shift: float


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


def criterion(result: Mapping[str, Any], rule: Rule) -> float | None:
    """What a rule goes by, larger for a start that it prefers; None of one that diverged.

    Args:
        result: of a start: the losses of the iterate that was kept, and what ``rule`` names.
        rule: ``"score_shift"`` (:func:`score_shift`), ``"score_variance"`` (``S``, Eq. 6), or
            ``"loss"``: ``-(L_trn + L_val)``, the sum by which the iterate was kept, too.
    """
    if result.get("score_variance") is None:
        return None
    if rule == "loss":
        return -float(result["train_loss"] + result["validation_loss"])
    return float(result[rule])


def choose(results: Sequence[Mapping[str, Any]], rule: Rule) -> int:
    """Index of the start to keep, the one with the largest :func:`criterion`.

    Raises:
        Diverged: every start.
    """
    found = [criterion(result, rule) for result in results]
    values = [-np.inf if value is None else value for value in found]
    if not np.isfinite(max(values)):
        raise Diverged(
            "every start diverged, or embeds all training pictures alike; lower learning_rate or "
            "raise batch_size, and see that no backbone or augmentation of your own gives NaN"
        )
    return int(np.argmax(values))


class Search:
    """Tunes from every starting point, and can be stopped and continued.

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
        ranks: processes that work on every start together, the first of which has the checkpoint.
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
        ranks: Ranks | None = None,
    ) -> None:
        self.train, self.test, self.starts = train, test, starts
        self.device = torch.device(device)
        self.make_detector, self.config, self.seed = make_detector, config, seed
        self.path = path if ranks is None or ranks.rank == 0 else None
        self.interval, self.ranks = interval, ranks
        self.done: Kept = {}
        self.begun: Kept = {}  # to be gone on with
        self._index = -1
        self._tuner: Tuner | None = None
        self._seconds = 0.0
        self._initial: dict[str, float] = {}
        self._farthest: Farthest | None = None
        # It goes through all pictures, which only a checkpoint is worth.
        parameters = [FORMAT, asdict(config), identity]
        self.identity = (ranks or path) and fingerprint(train, test, parameters)
        if ranks:
            ranks.compare(json.dumps([seed, parameters], default=repr), "parameters")
            ranks.compare(str(self.identity), "pictures")

    @property
    def results(self) -> list[dict[str, Any]]:
        """What the starts that have ended led to, in their order."""
        return [self.done[index][0] for index in sorted(self.done)]

    @property
    def tensors(self) -> list[Tensors]:
        """Networks, augmentations and densities of the same."""
        return [self.done[index][1] for index in sorted(self.done)]

    @property
    def remaining(self) -> list[int]:
        """The starts that have not ended."""
        return [index for index in range(len(self.starts)) if index not in self.done]

    def run(self, callback: Callable[[Progress], None] | None = None, jobs: int = 1) -> None:
        """Go on to the end. Ctrl-C or SIGTERM, with a checkpoint, ends the present step first.

        Args:
            callback: called after every step.
            jobs: starts that run at the same time, each in a process of its own.

        Raises:
            KeyboardInterrupt: stopped; the checkpoint holds everything done so far.
            InputError: the checkpoint cannot be written, pictures cannot be read, or a process has
                ended before its start had.
        """
        wanted = self.path is not None or self.ranks is not None
        with postponed_interrupt(wanted) as interrupted:
            if self.path and (jobs > 1 or any(path.exists() for path in self._parts())):
                self.gather()
            if jobs > 1:
                together.run(self, jobs, callback or (lambda progress: None), interrupted)
            else:
                for index in self.remaining:
                    self.work(index, callback, interrupted)
            if self.path:
                self.gather()

    def work(
        self,
        index: int,
        callback: Callable[[Progress], None] | None,
        interrupted: Callable[[], bool],
    ) -> None:
        """Begin one start, or go on with it, to its end.

        Raises:
            KeyboardInterrupt: ``interrupted`` said so, and what was done is saved.
        """
        saved = time.monotonic()
        self._tuner, self._index = self._begin(index), index
        while index not in self.done:
            began = time.monotonic()
            self._tuner.step()
            self._seconds += time.monotonic() - began
            if callback:
                callback(self._progress(self._tuner))
            self._look(self._tuner)
            if self._tuner.done:
                self._finish(self._tuner)
            now = time.monotonic()
            asked = self.ranks.agreed(interrupted) if self.ranks else interrupted
            if self.path and (asked() or now - saved >= self.interval):
                self.save()
                saved = time.monotonic()
            if asked():
                raise KeyboardInterrupt

    def _begin(self, index: int) -> Tuner:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)  # not those of GPUs, too
            detector = self.make_detector().to(self.device)
        augmentation = self.starts[index].to(self.device)
        generator = torch.Generator(self.device).manual_seed(self.seed)
        if not self.config.tunes:
            augmentation.draw_(generator)
        self._seconds, self._initial, self._farthest = 0.0, augmentation.describe(), None
        make = partial(DistributedTuner, self.ranks) if self.ranks else Tuner
        tuner = make(detector, augmentation, self.train, self.test, self.config, generator)
        if index in self.begun:
            values, tensors = self.begun.pop(index)
            tuner.load_state(tensors, values)
            self._seconds, self._initial = values["seconds"], values["initial"]
            if values["farthest"]:
                shift, iteration = values["farthest"]
                self._farthest = shift, iteration, checkpoint.under("farthest", tensors)
        return tuner

    def _look(self, tuner: Tuner) -> None:
        """Every few iterations: keep this one, if no other has a larger :func:`score_shift`."""
        iterations = tuner.step_count - self.config.warm_up
        if (
            self.config.iterate_selection == "loss"
            or not self.config.tunes
            or iterations < 1
            or iterations % LOOK_EVERY
        ):
            return
        began = time.monotonic()
        tuner.read()
        scored = None if tuner.done else self._scored(tuner.detector)
        least = self._farthest[0] if self._farthest else -np.inf
        if scored and least < scored.shift < np.inf:
            self._farthest = scored.shift, iterations - 1, tuner.iterate()
        self._seconds += time.monotonic() - began

    def _scored(self, detector: nn.Module) -> _Scored | None:
        """Density and test scores of a detector, if they are of any use."""
        trained = embed(detector, self.train)
        if not (np.isfinite(trained).all() and np.ptp(trained, axis=0).any()):
            return None
        density = GaussianDensity.fit(trained)
        found = distances(detector, density, self.test)
        scores = density.score_at(found)
        if not np.isfinite(scores).all():
            return None
        return _Scored(density, scores, score_shift(found, density.distance(trained)))

    def _finish(self, tuner: Tuner) -> None:
        began = time.monotonic()
        iteration, farthest = tuner.best_iteration, self._farthest
        scored = self._scored(tuner.detector) if iteration >= 0 else None
        if farthest and (scored is None or farthest[0] > scored.shift):
            tuner.restore(farthest[2])
            iteration, scored = farthest[1], self._scored(tuner.detector)
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
        if scored:
            result |= {
                "score_variance": score_variance(scored.scores),
                "score_shift": scored.shift,
                "scores": scored.scores.tolist(),
            }
            tensors = {
                **checkpoint.prefixed("detector", tuner.detector.state_dict()),
                **checkpoint.prefixed("augmentation", tuner.augmentation.state_dict()),
                **checkpoint.prefixed("density", scored.density.state()),
            }
        if not tensors:
            result["stopped"] = "diverged"
        result["seconds"] = self._seconds + time.monotonic() - began
        kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        if self.ranks:
            # A tensor on a GPU would arrive on the GPU of rank 0.
            mine = result, {name: tensor.cpu() for name, tensor in kept.items()}
            result, kept = self.ranks.first(lambda: mine)
        self.done[self._index] = result, kept
        self._tuner = None

    def _progress(self, tuner: Tuner) -> Progress:
        history = tuner.history
        return Progress(
            self._index,
            len(self.starts),
            tuner.step_count,
            tuner.total_steps,
            tuner.done,
            tuner.step_count <= self.config.warm_up,
            history["train_loss"][-1] if history else None,
            history["validation_loss"][-1] if history else None,
            tuner.augmentation.describe(),
        )

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        assert self.path is not None
        if self._tuner is not None:
            self._tuner.read()
            if self._tuner.done:  # some steps ago: on a GPU they are read later
                self._finish(self._tuner)
        begun = dict(self.begun)
        if self._tuner is not None:
            state, numbers = self._tuner.state()
            numbers |= {"seconds": self._seconds, "initial": self._initial, "farthest": None}
            if self._farthest:
                shift, iteration, iterate = self._farthest
                numbers["farthest"] = [shift, iteration]
                state |= checkpoint.prefixed("farthest", iterate)
            begun[self._index] = numbers, state
        tensors: Tensors = {}
        values: dict[str, Any] = {"identity": self.identity, "seed": self.seed}
        for name, states in (("done", self.done), ("begun", begun)):
            values[name] = {index: found for index, (found, _) in states.items()}
            for index, (_, kept) in states.items():
                tensors |= checkpoint.prefixed(f"{name}{index}", kept)
        checkpoint.save(self.path, tensors, values)

    def resume(self) -> None:
        """Go back to what the checkpoint holds; without one, start from the beginning.

        Raises:
            InputError: the checkpoint is damaged, or of other pictures or parameters.
        """
        if self.ranks:
            self.done, self.begun = self.ranks.first(self._resumed)
        else:
            self._resumed()

    def _resumed(self) -> tuple[Kept, Kept]:
        for path in (self.path, *self._parts()):
            if path and path.exists():
                self.load(path)
        return self.done, self.begun

    def gather(self) -> None:
        """Write one checkpoint, and delete those of processes that worked on a start each."""
        assert self.path is not None
        self.save()
        name = glob.escape(self.path.name)
        for pattern in (f"{name}.*.part", f".{name}.*.part.*"):  # the latter cut short by a kill
            for path in self.path.parent.glob(pattern):
                path.unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        return [together.part(self.path, i) for i in range(len(self.starts))] if self.path else []

    def load(self, path: Path) -> None:
        """Take over what a checkpoint holds, where that is farther than what is here."""
        tensors, values = checkpoint.load(path)
        if values.get("identity") != self.identity or values.get("seed") != self.seed:
            raise InputError(
                f"{path} is of another run: its pictures, parameters or seed differ from these. "
                "Repeat the command that began it, or choose another folder"
            )
        for index, found in values["done"].items():
            self.done[int(index)] = found, checkpoint.under(f"done{index}", tensors)
            self.begun.pop(int(index), None)
        for index, found in values["begun"].items():
            here = self.begun.get(int(index), ({"step_count": -1}, {}))[0]
            if int(index) not in self.done and found["step_count"] > here["step_count"]:
                self.begun[int(index)] = found, checkpoint.under(f"begun{index}", tensors)


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
def postponed_interrupt(wanted: bool) -> Iterator[Callable[[], bool]]:
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
