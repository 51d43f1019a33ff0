"""The estimator: fit on normal and unlabelled test pictures, then score."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from stssad_fast import checkpoint
from stssad_fast.augment import Augmentation, CutDiff, CutOut, CutPaste, Rotation
from stssad_fast.augment.modules import MAX_JITTER
from stssad_fast.augment.own import check_own
from stssad_fast.datasets import Images, Pictures, as_train_test, mean_and_std
from stssad_fast.detectors import (
    MIN_IMAGE_SIZE,
    BackboneDetector,
    ResNetDetector,
    backbone_name,
    module_digest,
)
from stssad_fast.devices import find_device
from stssad_fast.errors import InputError
from stssad_fast.outliers import OutlierScores, all_or_nothing
from stssad_fast.tuning import ensemble, selection
from stssad_fast.tuning.density import GaussianDensity
from stssad_fast.tuning.hypergradient import Tensors
from stssad_fast.tuning.ranks import Ranks
from stssad_fast.tuning.tuner import Strategy, TunerConfig, ValidationDistance

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "cutdiff": CutDiff,
    "cutout": CutOut,
    "cutpaste": CutPaste,
    "rotation": Rotation,
}
FORMAT = 1


class STSSAD(OutlierScores):
    """Self-tuning self-supervised anomaly detection on pictures (Yoo, Zhao, Akoglu).

    Learns to tell normal pictures from augmented ones, and tunes the augmentation so that it
    resembles the anomalies in an unlabelled test set (Alg. 1). Follows scikit-learn's conventions:
    higher :meth:`score_samples` is more normal, :meth:`predict` gives 1 or -1.

    Pictures are arrays or tensors (N, H, W) or (N, C, H, W) with 1 or 3 channels, floats in [0, 1]
    or uint8 or uint16, at least 16 pixels along each side, and all of one size. Those that memory
    does not hold: a ``numpy.memmap``, an object like :class:`stssad_fast.datasets.Pictures`, a
    folder or a list of files. They are read as they are needed, the results are the same.

    Args:
        augmentation: ``"cutdiff"`` (a soft elliptical patch: defects), ``"rotation"`` (semantic
            anomalies), or an :class:`stssad_fast.augment.Augmentation` of your own; for the random
            strategies also ``"cutout"`` and ``"cutpaste"``, which have no gradient.
        starts: constructor arguments of the augmentation, one dict per start. Default: the
            paper's four (size 1e-4 to 1e-1; angle 45 to 315 degrees).
        strategy: ``"second_order"``: exact hypergradient; ``"first_order"``: without its second
            term; ``"random_dynamic"``, ``"random_static"``: baselines without tuning, a drawn at
            random once per epoch or once.
        depth: layers of the ResNet, 18 or 10.
        width: channels of its first stage; the embedding has ``8 * width`` dimensions.
        backbone: a module that gives embeddings (B, D) for pictures (B, C, H, W), to take the place
            of the ResNet, whose ``depth`` and ``width`` then mean nothing. Every start trains a
            copy. Pretrained networks say in ``mean`` and ``std`` how pictures are normalised; more
            in :class:`stssad_fast.detectors.BackboneDetector`.
        iterations: of Algorithm 1 per start.
        warm_up: updates of the detector before the augmentation moves.
        updates: of the detector per iteration; the last is differentiated through.
        batch_size: training pictures per step; as many augmented and test pictures join them.
        learning_rate, momentum: of the detector's SGD.
        label_smoothing: of the cross-entropy, in [0, 1). A detector that is certain has no
            second-order gradient left; smoothing keeps it from becoming so.
        hyper_optimizer: ``"adam"`` or ``"sgd"`` (as in the paper), for the augmentation.
        hyper_learning_rate: of ``hyper_optimizer``, at the first iteration.
        hyper_schedule: ``"cosine"``: it falls to 0 along half a cosine; or ``"constant"``.
        parametrization: what steps of CutDiff move: ``"log"``: log size, log aspect, angle;
            ``"cholesky"``: the entries of ``L``, as in the paper. Other augmentations ignore it.
        jitter: of CutDiff: standard deviation from picture to picture of log size, log aspect and
            the angle in radians, in [0, 3], about the values that are tuned; with
            ``parametrization="log"``. 2 was better on defects at 64 px (docs/results/defects.md).
            Other augmentations ignore it.
        validation: the validation loss sees a ``"batch"`` of test pictures, or ``"all"`` of them in
            every iteration, with the exact gradient; that takes two passes over the test set,
            ``validation_norm="running"``, the default distance, and no ``graph``.
        validation_distance: what the validation loss measures between embeddings:
            ``"mean_distance"`` (Eq. 2-3); ``"centroid"``: the same with all augmented embeddings at
            their mean, so that the loss does not fall because they scatter, for anomalies that the
            detector tells apart (docs/method.md); ``"shift"``: how much farther than the training
            pictures the test pictures lie from the training centre, which is to grow
            (:func:`stssad_fast.tuning.shift.shift_loss`); for comparison ``"mmd"``, the maximum
            mean discrepancy after the same normalisation, or ``"mmd_raw"``, without it (MMD1, MMD2
            in the paper).
        validation_norm: batch norm in the validation pass: ``"joint"`` statistics of the training,
            augmented and test pictures together, or the ``"running"`` ones.
        unit_embedding: scale embeddings to length 1.
        smoothing: of ``L_trn + L_val`` by an exponential average.
        iterate_selection: which iterate of a start is kept: the one of least ``"loss"``, ``L_trn +
            L_val`` as smoothed, or of largest ``"score_shift"`` (as in ``selection``) among that
            one and every tenth; each look embeds all training and test pictures.
        patience: end a start after as many iterations without progress; None: never.
        precision: of the detector while it is tuned: ``"float32"``, or ``"bfloat16"`` by autocast;
            parameters, losses and everything about the augmentation stay float32.
        recompute: compute the detector's gradient, and half of its validation pass, twice in each
            iteration, so that less is held in memory between: the same numbers, more time.
        graph: capture each step as a CUDA graph and replay it; needs a GPU. Losses are looked at
            every few steps only, unless progress is shown.
        selection: which start is kept: the one of largest ``"score_shift"``, which does not depend
            on the scale of the scores, of largest ``"score_variance"`` (Eq. 6), or of least
            ``"loss"``, ``L_trn + L_val`` (good with the centroid: docs/results/made.md).
        ensemble: score by all starts together, if there are several: the mean of the places that a
            picture has among the test pictures, in [0, 1], each start weighted by its
            ``score_shift`` (:mod:`stssad_fast.tuning.ensemble`). Everything else is of the start
            that is kept. False: score by that alone, as in the paper, in a fourth of the time;
            worse on defects at 64 px, level at 128 (docs/results/defects.md).
        contamination: expected share of anomalies among the test pictures, in (0, 0.5], for the
            threshold of :meth:`predict`; ``"auto"``: the 95th percentile of the training scores.
        n_jobs: starts that run at the same time, each in a process of its own, among which torch's
            threads are divided; None: 1; -1: as many as threads. Each needs the memory of one.
            Results are equal to the last bit if every process has as many threads as one that runs
            them in a row. In a script, call :meth:`fit` under ``if __name__ == "__main__":``.
        distributed: several processes work on this fit, each on its share of every batch, to the
            result of one. Call :meth:`fit` in each, with the same arguments, after
            ``torch.distributed.init_process_group``; start them with ``torchrun``.
            ``batch_size`` is that of all together. The first one alone writes the checkpoint. Not
            with ``graph``, ``n_jobs`` or another ``validation_distance`` than the default.
        random_state: seed; with an int, two fits on a CPU are equal to the last bit.
        device: ``"auto"`` (a GPU if there is one), or a torch device.

    Attributes:
        augmentation_: the tuned module.
        detector_: the trained network.
        density_: Gaussian density of the training embeddings.
        starts_: per start: initial and final hyperparameters, losses and iteration of the iterate
            returned, ``score_variance``, ``score_shift``, ``scores`` of the test pictures (None
            if it diverged), ``history``, why it ``stopped``, ``seconds``.
        chosen_start_: index of the start that was kept.
        history_: its history: one list per loss and hyperparameter, one entry per iteration.
        threshold_: anomaly score above which a picture is predicted anomalous; ``-offset_``.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "augmentation": [str, Augmentation],
        "starts": [None, "array-like"],
        "strategy": [
            StrOptions({"second_order", "first_order", "random_dynamic", "random_static"})
        ],
        "depth": [Options(Integral, {10, 18})],
        "width": [Interval(Integral, 1, 1024, closed="both")],
        "backbone": [None, nn.Module],
        "iterations": [Interval(Integral, 1, 10**6, closed="both")],
        "warm_up": [Interval(Integral, 0, 10**6, closed="both")],
        "updates": [Interval(Integral, 1, 10**6, closed="both")],
        "batch_size": [Interval(Integral, 2, 10**6, closed="both")],
        "learning_rate": [Interval(Real, 0, 1e38, closed="right")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "hyper_optimizer": [StrOptions({"adam", "sgd"})],
        "hyper_learning_rate": [Interval(Real, 0, 1e6, closed="right")],
        "hyper_schedule": [StrOptions({"cosine", "constant"})],
        "parametrization": [StrOptions({"log", "cholesky"})],
        "jitter": [Interval(Real, 0, MAX_JITTER, closed="both")],
        "validation": [StrOptions({"batch", "all"})],
        "validation_distance": [StrOptions(set(get_args(ValidationDistance)))],
        "validation_norm": [StrOptions({"joint", "running"})],
        "unit_embedding": ["boolean"],
        "smoothing": [Interval(Real, 0, 1, closed="left")],
        "iterate_selection": [StrOptions({"loss", "score_shift"})],
        "patience": [None, Interval(Integral, 1, 10**6, closed="both")],
        "precision": [StrOptions({"float32", "bfloat16"})],
        "recompute": ["boolean"],
        "graph": ["boolean"],
        "selection": [StrOptions({"score_variance", "score_shift", "loss"})],
        "ensemble": ["boolean"],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "n_jobs": [None, Interval(Integral, 1, None, closed="left"), Options(Integral, {-1})],
        "distributed": ["boolean"],
        "random_state": ["random_state"],
        "device": [str, torch.device],
    }
    _fitted_by = "starts_"

    def __init__(
        self,
        augmentation: str | Augmentation = "cutdiff",
        *,
        starts: Sequence[dict[str, float]] | None = None,
        strategy: Strategy = "second_order",
        depth: Literal[10, 18] = 18,
        width: int = 16,
        backbone: nn.Module | None = None,
        iterations: int = 120,
        warm_up: int = 60,
        updates: int = 1,
        batch_size: int = 32,
        learning_rate: float = 0.02,
        momentum: float = 0.9,
        label_smoothing: float = 0.0,
        hyper_optimizer: Literal["adam", "sgd"] = "adam",
        hyper_learning_rate: float = 0.05,
        hyper_schedule: Literal["cosine", "constant"] = "constant",
        parametrization: Literal["log", "cholesky"] = "log",
        jitter: float = 0.0,
        validation: Literal["batch", "all"] = "batch",
        validation_distance: ValidationDistance = "mean_distance",
        validation_norm: Literal["joint", "running"] = "joint",
        unit_embedding: bool = True,
        smoothing: float = 0.9,
        iterate_selection: Literal["loss", "score_shift"] = "loss",
        patience: int | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        recompute: bool = False,
        graph: bool = False,
        selection: selection.Rule = "score_shift",
        ensemble: bool = True,
        contamination: float | Literal["auto"] = "auto",
        n_jobs: int | None = None,
        distributed: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.augmentation = augmentation
        self.starts = starts
        self.strategy = strategy
        self.depth = depth
        self.width = width
        self.backbone = backbone
        self.iterations = iterations
        self.warm_up = warm_up
        self.updates = updates
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.label_smoothing = label_smoothing
        self.hyper_optimizer = hyper_optimizer
        self.hyper_learning_rate = hyper_learning_rate
        self.hyper_schedule = hyper_schedule
        self.parametrization = parametrization
        self.jitter = jitter
        self.validation = validation
        self.validation_distance = validation_distance
        self.validation_norm = validation_norm
        self.unit_embedding = unit_embedding
        self.smoothing = smoothing
        self.iterate_selection = iterate_selection
        self.patience = patience
        self.precision = precision
        self.recompute = recompute
        self.graph = graph
        self.selection = selection
        self.ensemble = ensemble
        self.contamination = contamination
        self.n_jobs = n_jobs
        self.distributed = distributed
        self.random_state = random_state
        self.device = device

    @all_or_nothing
    def fit(
        self,
        train_images: Images,
        test_images: Images,
        *,
        checkpoint_path: str | Path | None = None,
        checkpoint_interval: float = 10.0,
        resume: bool = False,
        callback: Callable[[selection.Progress], None] | None = None,
    ) -> Self:
        """Tune from every start and keep one.

        Args:
            train_images: normal pictures, at least 2.
            test_images: unlabelled pictures to find anomalies in, at least 2. Those that stay on
                the disk are gone through batch by batch; memory does not grow with their number.
            checkpoint_path: file to keep the state in, new unless ``resume``; Ctrl-C and SIGTERM
                then end the present step and write it before KeyboardInterrupt is raised.
            checkpoint_interval: seconds between two writes, so the most that a crash can lose.
            resume: go on from ``checkpoint_path``, to the result an unbroken fit would have had;
                if there is no such file, begin.
            callback: called after every step with a :class:`Progress`.

        Raises:
            InputError: the pictures cannot be used or are no longer there, the checkpoint is
                damaged, of another run or in the way of a new one, an augmentation or a backbone
                of your own does not do what it should, every start diverged, a process of
                ``n_jobs`` or ``distributed`` was ended, or their pictures or parameters differ;
                the message says what to do.
            ValueError: a parameter is out of range.

        After an error, or Ctrl-C, what was fitted before is as it was.
        """
        self.check_parameters()
        device = find_device(self.device)
        ranks = Ranks(device) if self.distributed else None
        path = None if checkpoint_path is None else Path(checkpoint_path)
        with ranks.joined() if ranks else nullcontext():
            _check_checkpoint(path, checkpoint_interval, resume)
            train, test = as_train_test(train_images, test_images, min_side=MIN_IMAGE_SIZE)
            mean, std = mean_and_std(train)
        draw = partial(self._seed, path if resume else None)
        seed = ranks.first(draw) if ranks else draw()
        starts = self._starts()
        if isinstance(self.augmentation, Augmentation):
            pictures = train[torch.arange(2)].to(device)
            check_own(starts[0].to(device), pictures, self._config().tunes)
        places = [start.describe() for start in starts]
        self.image_shape_ = tuple(train.shape[1:])
        make_detector = partial(self._detector, mean, std)
        search = selection.Search(
            _at(train, device),
            _at(test, device),
            starts,
            make_detector,
            self._config(),
            seed,
            path,
            checkpoint_interval,
            [
                self.depth,
                self.width,
                self.unit_embedding,
                self.parametrization,
                self.jitter,
                repr(self.augmentation),
                places,
                *(
                    module_digest(own)
                    for own in (self.augmentation, self.backbone)
                    if isinstance(own, nn.Module)
                ),
            ],
            device,
            ranks,
        )
        if resume:
            search.resume()
        search.run(callback, torch.get_num_threads() if self.n_jobs == -1 else self.n_jobs or 1)

        self.starts_ = search.results
        self.chosen_start_ = selection.choose(self.starts_, self.selection)
        kept = search.tensors[self.chosen_start_]
        members = [search.tensors[index] for index in self._together()]
        self._restore(kept, members, make_detector, device)
        if self.contamination == "auto":
            self._set_threshold(float(np.quantile(self.anomaly_scores(train), 0.95)))
        else:
            self._set_threshold(float(np.quantile(self.test_scores_, 1 - self.contamination)))
        return self

    def check_parameters(self) -> None:
        """Raise what :meth:`fit` would raise for the parameters alone.

        Raises:
            InputError: augmentation, starts or device cannot be used, or ``strategy``,
                ``validation``, ``validation_norm``, ``validation_distance``, ``graph``, ``n_jobs``
                and ``distributed`` do not go together.
            ValueError: a parameter is out of range.
        """
        self._validate_params()
        if self.validation == "all" and self.validation_norm == "joint":
            raise InputError(
                "validation is 'all', which goes through the test pictures in batches, and "
                "validation_norm 'joint', which needs them at once; set validation_norm to "
                "'running', or validation to 'batch'"
            )
        if self.validation == "all" and self.validation_distance != "mean_distance":
            raise InputError(
                f"validation is 'all' and validation_distance {self.validation_distance!r}, which "
                "do not go together; set validation to 'batch'"
            )
        bare = self.validation_distance == "shift" and self.validation_norm == "running"
        if bare and self.strategy == "first_order":
            raise InputError(
                "strategy is 'first_order', and with validation_distance 'shift' and "
                "validation_norm 'running' nothing of its gradient is left; set strategy to "
                "'second_order', or validation_norm to 'joint'"
            )
        unshared = {
            "graph": self.graph,
            "n_jobs": (self.n_jobs or 1) != 1,
            "validation_distance": self.validation_distance != "mean_distance",
        }
        for name, wanted in unshared.items():
            if self.distributed and wanted:
                raise InputError(
                    f"distributed is True and {name} {getattr(self, name)}; these do not go "
                    f"together. Leave {name} at its default, or distributed at False"
                )
        self._starts()
        self._config().check(find_device(self.device))

    def fit_predict(self, train_images: Images, test_images: Images, **kwargs: Any) -> NDArray[Any]:
        """:meth:`fit`, then :meth:`predict` for the test pictures."""
        return self.fit(train_images, test_images, **kwargs).predict(test_images)

    def embed(self, images: Images) -> NDArray[np.float32]:
        """Embeddings (N, D); D is ``8 * width``, or what the backbone gives."""
        checked = self._checked(images)
        return selection.embed(self.detector_, checked)

    def anomaly_scores(self, images: Images) -> NDArray[np.float64]:
        """Negative log-likelihood (N,) under the training density; higher is more anomalous.

        Of several starts together (``ensemble``), a number in [0, 1] instead.
        """
        checked = self._checked(images)
        if not self.members_:
            return _Member(self.detector_, self.density_).scores(checked)
        return self._combined([member.scores(checked) for member in self.members_])

    @property
    def test_scores_(self) -> NDArray[np.float64]:
        """:meth:`anomaly_scores` (M,) of the test pictures of :meth:`fit`."""
        check_is_fitted(self, "starts_")
        if not self.members_:
            return np.array(self.starts_[self.chosen_start_]["scores"])
        return self._combined(self._references())

    def _together(self) -> list[int]:
        """Indices of the starts that are to score together; none if one scores alone."""
        members = ensemble.members(self.starts_) if self.ensemble else []
        return members if len(members) > 1 else []

    def _references(self) -> list[NDArray[np.float64]]:
        found = (self.starts_[index]["scores"] for index in ensemble.members(self.starts_))
        return [np.array(scores) for scores in found]

    def _combined(self, scores: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        return ensemble.combine(scores, self._references(), ensemble.weights(self.starts_))

    @property
    def history_(self) -> dict[str, list[float]]:
        """History of the start that was kept."""
        check_is_fitted(self, "starts_")
        history: dict[str, list[float]] = self.starts_[self.chosen_start_]["history"]
        return history

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file; the JSON is in its header.

        Its parameters are those that it was fitted with. Of a ``backbone`` it holds the weights
        only; :meth:`load` needs the module.

        Raises:
            InputError: the file cannot be written, or the augmentation is a module of your own,
                which no file can hold: save its ``state_dict`` yourself.
        """
        check_is_fitted(self, "starts_")
        params = dict(self._fitted_with)
        augmentation, backbone = params["augmentation"], params.pop("backbone")
        if not isinstance(augmentation, str):
            raise InputError(
                f"augmentation is the module {type(augmentation).__name__}; only named "
                "augmentations can be saved. Save augmentation_.state_dict() yourself"
            )
        if isinstance(params["random_state"], np.random.RandomState):
            params["random_state"] = None
        values = {
            "format": FORMAT,
            "params": json.loads(json.dumps(params, default=_plain)),
            "backbone": None if backbone is None else backbone_name(backbone),
            "starts": self.starts_,
            "chosen_start": self.chosen_start_,
            "image_shape": self.image_shape_,
            "threshold": self.threshold_,
        }
        tensors = _Member(self.detector_, self.density_).tensors()
        tensors |= checkpoint.prefixed("augmentation", self.augmentation_.state_dict())
        starts = ensemble.members(self.starts_)
        for index, (start, member) in enumerate(zip(starts, self.members_, strict=False)):
            if start != self.chosen_start_:  # which is there already
                tensors |= checkpoint.prefixed(f"member{index}", member.tensors())
        checkpoint.save(Path(path), tensors, values)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        backbone: nn.Module | None = None,
    ) -> Self:
        """Read what :meth:`save` wrote; scores are the same to the last bit.

        Args:
            path: the file.
            device: to work on.
            backbone: a module built like the one that was fitted with, if there was one; it gets
                the weights of the file.

        Raises:
            InputError: the file is missing, damaged, or of another format, or the backbone is
                missing, not wanted, or built otherwise.
        """
        tensors, values = checkpoint.load(Path(path))
        place = find_device(device)
        name = values.get("backbone")
        if name and backbone is None:
            raise InputError(
                f"{path} was fitted with the backbone {name}, which no file can hold; build it "
                "again and give it: STSSAD.load(path, backbone=...)"
            )
        if backbone is not None and not name:
            raise InputError(f"{path} was fitted without a backbone of your own; leave it out")
        try:
            if values["format"] != FORMAT:
                raise KeyError("format")
            model = cls(**values["params"]).set_params(device=device, backbone=backbone)
            model.starts_, model.chosen_start_ = values["starts"], values["chosen_start"]
            model.image_shape_ = tuple(values["image_shape"])
            model._set_threshold(values["threshold"])
            members = [
                tensors
                if start == model.chosen_start_
                else checkpoint.under(f"member{index}", tensors)
                for index, start in enumerate(model._together())
            ]
            model._restore(tensors, members, model._detector, place)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if name:
                raise InputError(
                    f"{path} does not fit the backbone that was given ({error}); give one that is "
                    f"built like the {name} it was fitted with"
                ) from error
            raise InputError(
                f"{path} is not a model of this version of stssad_fast; expected a file that "
                "STSSAD.save wrote"
            ) from error
        return model

    def _restore(
        self,
        tensors: Tensors,
        members: Sequence[Tensors],
        make_detector: Callable[[], nn.Module],
        device: torch.device,
    ) -> None:
        kept = _Member.of(tensors, make_detector(), device)
        self.detector_, self.density_ = kept.detector, kept.density
        self.augmentation_ = self._starts()[0].to(device)
        self.augmentation_.load_state_dict(checkpoint.under("augmentation", tensors))
        self.members_ = [_Member.of(each, make_detector(), device) for each in members]
        self._fitted_with = self.get_params(deep=False)

    def _seed(self, begun: Path | None) -> int:
        """Of the checkpoint, if there is one and nothing else says; else drawn."""
        seed = selection.saved_seed(begun) if begun and self.random_state is None else None
        if seed is None:
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        return seed

    def _config(self) -> TunerConfig:
        names = TunerConfig.__dataclass_fields__
        return TunerConfig(**{k: v for k, v in self.get_params().items() if k in names})

    def _detector(self, mean: Tensor | None = None, std: Tensor | None = None) -> nn.Module:
        channels, height, width = self.image_shape_
        with torch.random.fork_rng(devices=[]):
            if self.backbone is None:
                side = min(height, width)
                return ResNetDetector(
                    channels, self.width, side, mean, std, self.unit_embedding, self.depth
                )
            detector = BackboneDetector(
                self.backbone, channels, (height, width), mean, std, self.unit_embedding
            )
        for name in ("recompute", "graph", "distributed"):
            if detector.draws and getattr(self, name):
                what = "share" if name == "distributed" else "repeat"
                raise InputError(
                    f"{name}=True cannot {what} what the backbone draws at random; set it to "
                    "False, or give a backbone without dropout"
                )
        return detector

    def _starts(self) -> list[Augmentation]:
        if isinstance(self.augmentation, Augmentation):
            if self.starts is not None:
                raise InputError(
                    "starts belong to a named augmentation; a module of your own starts where its "
                    "hyperparameters are. Leave starts at None"
                )
            if not self._can_move(self.augmentation):
                raise InputError(
                    f"{type(self.augmentation).__name__} has no parameters to tune; give it "
                    "torch.nn.Parameters, or choose a strategy without tuning"
                )
            return [copy.deepcopy(self.augmentation)]
        kind = AUGMENTATIONS.get(self.augmentation)
        if kind is None:
            raise InputError(
                f"augmentation is {self.augmentation!r}; choose one of "
                f"{', '.join(sorted(AUGMENTATIONS))}, or give an Augmentation module"
            )
        starts = kind.starts() if self.starts is None else self.starts
        if not len(starts):
            raise InputError("starts is empty; give at least one starting point, or None")
        if not self._config().tunes:
            starts = starts[:1]
        extra = {name: getattr(self, name) for name in ("parametrization", "jitter")}
        for start in starts:
            if not isinstance(start, Mapping):
                raise InputError(
                    f"starts has {start!r}; expected a list of dicts, one per start, "
                    f"such as {kind.starts()[0]}"
                )
        try:
            made = [kind(**start, **(extra if kind is CutDiff else {})) for start in starts]
        except (TypeError, ValueError) as error:
            raise InputError(f"starts does not fit {self.augmentation}: {error}") from error
        if not self._can_move(made[0]):
            raise InputError(
                f"{self.augmentation} has no gradient, and strategy is {self.strategy!r}; choose "
                "'random_dynamic' or 'random_static', or augmentation 'cutdiff'"
            )
        return made

    def _can_move(self, augmentation: Augmentation) -> bool:
        """Whether the strategy needs no gradient, or there is something that takes one."""
        return not self._config().tunes or any(v.requires_grad for v in augmentation.parameters())


@dataclass(frozen=True)
class _Member:
    """What scores pictures by one start."""

    detector: nn.Module
    density: GaussianDensity

    @classmethod
    def of(cls, tensors: Tensors, detector: nn.Module, device: torch.device) -> Self:
        detector = detector.to(device).eval()
        detector.load_state_dict(checkpoint.under("detector", tensors))
        return cls(detector, GaussianDensity.from_state(checkpoint.under("density", tensors)))

    def tensors(self) -> Tensors:
        return {
            **checkpoint.prefixed("detector", self.detector.state_dict()),
            **checkpoint.prefixed("density", self.density.state()),
        }

    def scores(self, images: Pictures) -> NDArray[np.float64]:
        return self.density.score_at(selection.distances(self.detector, self.density, images))


def _plain(value: Any) -> Any:
    """A parameter as JSON has it: NumPy's numbers and arrays as Python's, a device as its name."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _check_checkpoint(path: Path | None, interval: float, resume: bool) -> None:
    try:
        valid = interval >= 0  # inf is: at the end alone
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"checkpoint_interval is {interval!r}; expected seconds, at least 0")
    if path is None:
        if resume:
            raise InputError("resume is True; give the checkpoint_path to go on from, too")
    elif not path.parent.is_dir():
        raise InputError(
            f"checkpoint_path is {path}, and {path.parent} is no folder; make it first"
        )
    elif path.exists() and not resume:
        raise InputError(
            f"checkpoint_path is {path}, which exists; give resume=True to go on from it, delete "
            "it, or choose another path"
        )


def _at(pictures: Pictures, device: torch.device) -> Pictures:
    return pictures.to(device) if isinstance(pictures, Tensor) else pictures
