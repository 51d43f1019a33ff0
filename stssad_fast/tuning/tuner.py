"""Algorithm 1 of the paper for one starting point, as a sequence of steps that can be stopped."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from stssad_fast.augment import Augmentation
from stssad_fast.checkpoint import prefixed, under
from stssad_fast.datasets import Pictures, ReadAhead, batches
from stssad_fast.errors import InputError
from stssad_fast.ops import mean_distance_loss
from stssad_fast.tuning.batch_norm import TrainingBatchNorm
from stssad_fast.tuning.hypergradient import Loss, Tensors, bilevel_step
from stssad_fast.tuning.mmd import mmd_loss
from stssad_fast.tuning.optimizer import HyperOptimizer
from stssad_fast.tuning.recompute import recomputed
from stssad_fast.tuning.shift import shift_loss
from stssad_fast.tuning.validation import loss_over_all

Strategy = Literal["second_order", "first_order", "random_dynamic", "random_static"]
ValidationDistance = Literal["mean_distance", "centroid", "shift", "mmd", "mmd_raw"]


@dataclass(frozen=True)
class TunerConfig:
    """How one start is tuned; :class:`stssad_fast.STSSAD` documents every field."""

    strategy: Strategy = "second_order"
    iterations: int = 120
    warm_up: int = 60
    updates: int = 1
    batch_size: int = 32
    learning_rate: float = 0.02
    momentum: float = 0.9
    label_smoothing: float = 0.0
    hyper_optimizer: Literal["adam", "sgd"] = "adam"
    hyper_learning_rate: float = 0.05
    hyper_schedule: Literal["cosine", "constant"] = "constant"
    validation: Literal["batch", "all"] = "batch"
    validation_norm: Literal["joint", "running"] = "joint"
    validation_distance: ValidationDistance = "mean_distance"
    smoothing: float = 0.9
    iterate_selection: Literal["loss", "score_shift"] = "loss"
    patience: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    graph: bool = False

    @property
    def tunes(self) -> bool:
        """Whether gradients move the augmentation."""
        return self.strategy in ("second_order", "first_order")

    def check(self, device: torch.device) -> None:
        """Raise InputError if it cannot be done on this device."""
        if self.graph and device.type != "cuda":
            raise InputError(
                f"graph=True captures a CUDA graph and needs a GPU, but the device is {device}. "
                "Leave graph at False, or choose a CUDA device"
            )
        if self.graph and self.validation == "all":
            raise InputError(
                "graph=True captures one step on one batch, and validation='all' goes through the "
                "whole test set in it; set validation to 'batch', or leave graph at False"
            )


# Steps between two looks at the losses where looking would make the host wait.
READ_EVERY = 16
# Steps of a kind that run before its CUDA graph is captured; they set up libraries and memory.
EAGER_STEPS = 3


class Tuner:
    """Alternates parameter updates of the detector and hypergradient steps of the augmentation.

    A step looks at no value: it moves tensors in place and leaves losses, hyperparameters and the
    best iterate in tensors on the device, so that the same code runs eagerly and as a CUDA graph.
    :meth:`read` fetches them, on a CPU after every step.

    Args:
        detector: gives ``(embedding, logit)``; trained in place.
        augmentation: its parameters are tuned in place.
        train, test: pictures (N, C, H, W) in [0, 1], wherever they are.
        config: how to tune.
        generator: draws batches and patch centres; on the device of the detector.
    """

    def __init__(
        self,
        detector: nn.Module,
        augmentation: Augmentation,
        train: Pictures,
        test: Pictures,
        config: TunerConfig,
        generator: torch.Generator,
    ) -> None:
        self.detector, self.augmentation, self.config = detector, augmentation, config
        self.train, self.test = ReadAhead(train), ReadAhead(test)
        self.generator = generator
        self.device = next(detector.parameters()).device
        config.check(self.device)
        if config.graph and not all(isinstance(s, Tensor) for s in (train, test)):
            raise InputError(
                "graph=True draws pictures on the GPU, and these are read from disk as they are "
                "needed; give them as a tensor, raise memory, or leave graph at False"
            )
        # A GPU would wait for every look at the losses.
        self.read_every = 1 if self.device.type == "cpu" else READ_EVERY
        self.step_count = 0
        self.stopped = ""
        self._history: dict[str, list[float]] = {}
        self._velocity: Tensors = {k: torch.zeros_like(v) for k, v in detector.named_parameters()}
        self._optimizer = HyperOptimizer(
            list(self._tuned().values()),
            config.hyper_optimizer,
            [self._hyper_learning_rate(iteration) for iteration in range(config.iterations)],
        )
        device, wide = self.device, torch.float64
        self._best: Tensors = {
            **prefixed("detector", _copied(detector.state_dict())),
            **prefixed("augmentation", _copied(augmentation.state_dict())),
        }
        self._best_iteration = torch.full((), -1, dtype=torch.int64, device=device)
        self._best_criterion = torch.full((), math.inf, dtype=wide, device=device)
        self._smoothed = torch.zeros((), dtype=wide, device=device)
        self._running = torch.ones((), dtype=torch.bool, device=device)
        # What every step leaves to be read: both losses, and the best iteration so far.
        self._index = torch.zeros((), dtype=torch.int64, device=device)
        self._records = torch.zeros(self.total_steps, 3, dtype=wide, device=device)
        self._used = {
            name: value.new_zeros(self.total_steps, *value.shape)
            for name, value in _copied(dict(augmentation.named_parameters())).items()
        }
        self._read = 0
        self._corrections = torch.tensor(
            [1 - config.smoothing ** (k + 1) for k in range(config.iterations)],
            dtype=wide,
            device=device,
        )
        self._sweep: Callable[..., Tensor] = loss_over_all
        self._calls: dict[str, int] = {}
        self._graphs: dict[str, torch.cuda.CUDAGraph] = {}

    @property
    def total_steps(self) -> int:
        """Warm-up steps and iterations together."""
        return self.config.warm_up + self.config.iterations

    @property
    def done(self) -> bool:
        """Whether this start has ended; ``stopped`` says why."""
        return bool(self.stopped)

    @property
    def history(self) -> dict[str, list[float]]:
        """Losses and hyperparameters, one entry per iteration."""
        self.read()
        return self._history

    @property
    def best_iteration(self) -> int:
        """Where ``L_trn + L_val``, smoothed, was least; -1 before the first finite one."""
        self.read()
        return int(self._best_iteration)

    def step(self) -> None:
        """One warm-up step, or one iteration of Algorithm 1."""
        config = self.config
        epoch = math.ceil(len(self.train.pictures) / config.batch_size)
        if config.strategy == "random_dynamic" and self.step_count % epoch == 0:
            self.augmentation.draw_(self.generator)
        if self.step_count < config.warm_up:
            self._run("warm-up", self._warm_up)
        else:
            self._run("iteration", self._iterate)
        self.step_count += 1
        last = self.step_count == self.total_steps
        if last or self.step_count % self.read_every == 0:
            self.read()

    def read(self) -> None:
        """Fetch what the steps since the last time have left, and end this start if it is over.

        A start that is found to have ended some steps ago goes back to where it did.
        """
        warm_up, patience = self.config.warm_up, self.config.patience
        rows = self._records[self._read : self.step_count].tolist()
        for index, (train_loss, validation_loss, best) in enumerate(rows, self._read):
            if self.done:
                break
            iteration = index - warm_up
            if iteration >= 0:
                record = {"iteration": iteration, "train_loss": train_loss}
                record |= {"validation_loss": validation_loss, **self._described(index)}
                for name, value in record.items():
                    self._history.setdefault(name, []).append(value)
            self._read = index + 1
            if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
                self.stopped = "diverged"
            elif self._read == self.total_steps:
                self.stopped = "finished"
            elif patience is not None and self.config.tunes and iteration - best >= patience:
                self.stopped = f"no progress for {patience} iterations"
        if rows and self.done:
            self.step_count = self._read
            if self._best_iteration >= 0:
                self.restore(self._best)

    def iterate(self) -> Tensors:
        """A copy of the detector, and of the augmentation that it was last trained with."""
        used = {name: rows[self.step_count - 1] for name, rows in self._used.items()}
        augmentation = {**self.augmentation.state_dict(), **used}
        return _copied(
            {
                **prefixed("detector", self.detector.state_dict()),
                **prefixed("augmentation", augmentation),
            }
        )

    def restore(self, iterate: Tensors) -> None:
        """Go back to what :meth:`iterate` gave."""
        self.detector.load_state_dict(under("detector", iterate))
        self.augmentation.load_state_dict(under("augmentation", iterate))

    def _described(self, index: int) -> dict[str, float]:
        """The hyperparameters of an earlier step, in the words of the augmentation."""
        parameters: Tensors = dict(self.augmentation.named_parameters())
        present = _copied(parameters)
        _copy(parameters, {name: rows[index] for name, rows in self._used.items()})
        described = self.augmentation.describe()
        _copy(parameters, present)
        return described

    def _run(self, name: str, function: Callable[[], None]) -> None:
        """Call it, or replay the CUDA graph of it, which is captured after a few calls."""
        if not self.config.graph:
            function()
            return
        calls = self._calls[name] = self._calls.get(name, 0) + 1
        if calls <= EAGER_STEPS:
            stream, present = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
            stream.wait_stream(present)
            with torch.cuda.stream(stream):
                function()
            present.wait_stream(stream)
            return
        if name not in self._graphs:
            self._graphs.clear()  # and the memory of the last kind of step
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph):  # records, and computes nothing yet
                function()
            self._graphs[name] = graph
        self._graphs[name].replay()

    def _warm_up(self) -> None:
        train_loss = self._update()
        self._record(train_loss, torch.zeros_like(train_loss))

    def _iterate(self) -> None:
        present: Tensors = dict(self.augmentation.named_parameters())
        used = _copied(present)
        for _ in range(self.config.updates - 1):
            self._update()
        step = self._bilevel if self.config.tunes else self._update_and_validate
        train_loss, validation_loss = step()
        self._keep_best(used, train_loss, validation_loss)
        self._record(train_loss, validation_loss, used)

    @torch.no_grad()
    def _keep_best(self, used: Tensors, train_loss: Tensor, validation_loss: Tensor) -> None:
        smoothing, iteration = self.config.smoothing, self._index - self.config.warm_up
        total = train_loss.double() + validation_loss.double()
        self._smoothed.copy_(smoothing * self._smoothed + (1 - smoothing) * total)
        criterion = self._smoothed / self._corrections.index_select(0, iteration[None])[0]
        better = self._running & torch.isfinite(criterion)
        if self.config.tunes:
            better &= criterion < self._best_criterion
        now = {**prefixed("detector", self.detector.state_dict()), **prefixed("augmentation", used)}
        for name, value in now.items():
            self._best[name].copy_(torch.where(better, value, self._best[name]))
        self._best_criterion.copy_(torch.where(better, criterion, self._best_criterion))
        self._best_iteration.copy_(torch.where(better, iteration, self._best_iteration))
        self._running &= torch.isfinite(total)
        if self.config.patience is not None and self.config.tunes:
            self._running &= iteration - self._best_iteration < self.config.patience

    @torch.no_grad()
    def _record(
        self, train_loss: Tensor, validation_loss: Tensor, used: Tensors | None = None
    ) -> None:
        at = self._index[None]
        row = torch.stack(
            [train_loss.double(), validation_loss.double(), self._best_iteration.double()]
        )
        self._records.index_copy_(0, at, row[None])
        for name, value in (used or {}).items():
            self._used[name].index_copy_(0, at, value[None])
        self._running &= torch.isfinite(row).all()
        self._index.add_(1)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything needed to go on to the identical result, as tensors and JSON-able values."""
        self.read()
        best = self.best_iteration
        tensors = {
            **prefixed("detector", self.detector.state_dict()),
            **prefixed("augmentation", self.augmentation.state_dict()),
            **prefixed("velocity", self._velocity),
            **prefixed("optimizer", self._optimizer.state()),
            **(prefixed("best", self._best) if best >= 0 else {}),
            "generator": self.generator.get_state(),
        }
        criterion = self._best_criterion.item()
        values = {
            "step_count": self.step_count,
            "history": self._history,
            "best_iteration": best,
            "best_criterion": None if math.isinf(criterion) else criterion,
            "smoothed": self._smoothed.item(),
        }
        return tensors, values

    def load_state(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Go back to a state that :meth:`state` gave."""
        device = self.device
        moved = {k: v.to(device) for k, v in tensors.items() if k != "generator"}
        self.detector.load_state_dict(under("detector", moved))
        self.augmentation.load_state_dict(under("augmentation", moved))
        _copy(self._velocity, under("velocity", moved))
        self._optimizer.load_state(under("optimizer", moved))
        if values["best_iteration"] >= 0:
            _copy(self._best, under("best", moved))
        self.generator.set_state(tensors["generator"].cpu())
        self.step_count = self._read = values["step_count"]
        self._index.fill_(self.step_count)
        self._history = values["history"]
        self._best_iteration.fill_(values["best_iteration"])
        criterion = values["best_criterion"]
        self._best_criterion.fill_(math.inf if criterion is None else criterion)
        self._smoothed.fill_(values["smoothed"])

    def _tuned(self) -> Tensors:
        """The hyperparameters that gradients move; others stay as they were given."""
        named = self.augmentation.named_parameters()
        return {name: value for name, value in named if value.requires_grad}

    def _rows(self, source: ReadAhead, generator: torch.Generator) -> Tensor:
        count = len(source.pictures)
        order = torch.randperm(count, generator=generator, device=generator.device)
        return order[: self.config.batch_size]

    def _draw(self, source: ReadAhead) -> Tensor:
        return source[self._rows(source, self.generator)].to(self.generator.device)

    def _look_ahead(self, test: bool) -> None:
        """Announce what will be drawn next if nothing else draws before; never changes a result."""
        sources = [self.train, self.test] if test else [self.train]
        if all(isinstance(source.pictures, Tensor) for source in sources):
            return
        generator = torch.Generator(self.generator.device)
        generator.set_state(self.generator.get_state())
        for source in sources:
            source.announce(self._rows(source, generator))

    def _augment(self, hyperparameters: Tensors, images: Tensor) -> Tensor:
        made: Tensor = functional_call(
            self.augmentation, hyperparameters, (images,), {"generator": self.generator}
        )
        return made

    def _train_loss(self, images: Tensor) -> Loss:
        def loss(parameters: Tensors, hyperparameters: Tensors) -> Tensor:
            self.detector.train()
            both = torch.cat(self._shares(images, self._augment(hyperparameters, images)))
            _, logit = self._detect(parameters, both)
            smoothing = self.config.label_smoothing
            truth = torch.full_like(logit, smoothing / 2)
            truth[len(logit) // 2 :] = 1 - smoothing / 2
            return self._cross_entropy(logit, truth)

        return loss

    def _loss_over_all(self, images: Tensor) -> Loss:
        def embed(parameters: Tensors, batch: Tensor) -> Tensor:
            return self._detect(parameters, batch)[0]

        def loss(parameters: Tensors, hyperparameters: Tensors) -> Tensor:
            self.detector.eval()
            augmented = self._augment(hyperparameters, images)
            self._look_ahead(test=False)
            return self._sweep(
                embed,
                parameters,
                *self._shares(images, augmented),
                lambda: (b.to(self.device) for b in map(self._share, batches(self.test.pictures))),
            )

        return loss

    def _validation_loss(self, images: Tensor, test: Tensor) -> Loss:
        if self.config.validation == "all":
            return self._loss_over_all(images)

        def loss(parameters: Tensors, hyperparameters: Tensors) -> Tensor:
            self.detector.train(self.config.validation_norm == "joint")
            sets = self._shares(images, self._augment(hyperparameters, images), test)
            self._look_ahead(test=self.config.tunes and self.config.updates == 1)
            # Batch norm's statistics are not to move; what counts a backbone's draws is.
            buffers = {k: v.clone() for k, v in self.detector.named_buffers() if k != "seed"}
            counts, stacked = [len(rows) for rows in sets], torch.cat(sets)
            del sets
            with recomputed(self.detector, self.config.recompute, self._norm):
                embedding, _ = self._detect({**parameters, **buffers}, stacked)
            return self._distance(embedding, counts)

        return loss

    # What DistributedTuner does otherwise.

    def _enter(self, tensors: Tensors) -> Tensors:
        """Parameters as the losses take them."""
        return tensors

    def _share(self, rows: Tensor) -> Tensor:
        """Those of these rows that this process works on."""
        return rows

    def _shares(self, *sets: Tensor) -> list[Tensor]:
        return [self._share(rows) for rows in sets]

    def _norm(self) -> TrainingBatchNorm:
        """Where the detector is called."""
        return TrainingBatchNorm()

    def _cross_entropy(self, logit: Tensor, truth: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logit, truth)

    def _distance(self, embedding: Tensor, counts: Sequence[int]) -> Tensor:
        """``L_val`` of so many training, augmented and test rows; not a number if one is not."""
        finite = torch.isfinite(embedding).all()  # else diverged; the op would raise
        sets = torch.where(finite, embedding, 0.0).split(list(counts))
        train, augmented, test = sets
        match self.config.validation_distance:
            case "mean_distance":
                found = mean_distance_loss(train, augmented, test)
            case "centroid":
                centroid = augmented.mean(0, keepdim=True).expand_as(augmented)
                found = mean_distance_loss(train, centroid, test)
            case "shift":
                found = shift_loss(train, test)
            case kind:
                found = mmd_loss(train, augmented, test, normalize=kind == "mmd")
        return torch.where(finite, found, math.nan)

    def _detect(self, tensors: Tensors, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and logits, in float32 whatever the precision of the network."""
        lower = self.config.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=lower), self._norm():
            embedding, logit = functional_call(self.detector, tensors, (images,))
        return (embedding.float(), logit.float()) if lower else (embedding, logit)

    def _update(self) -> Tensor:
        """One SGD step of the detector at the present augmentation."""
        parameters: Tensors = dict(self.detector.named_parameters())
        hyperparameters = {k: v.detach() for k, v in self.augmentation.named_parameters()}
        entered = self._enter(parameters)
        loss = self._train_loss(self._draw(self.train))(entered, hyperparameters)
        self._look_ahead(test=not self.config.tunes)
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        with torch.no_grad():
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
                self._velocity[name].mul_(self.config.momentum).add_(gradient)
                value.sub_(self._velocity[name], alpha=self.config.learning_rate)
        return loss.detach()

    def _bilevel(self) -> tuple[Tensor, Tensor]:
        images, test = self._draw(self.train), self._draw(self.test)
        parameters: Tensors = dict(self.detector.named_parameters())
        hyperparameters = self._tuned()
        step = bilevel_step(
            self._train_loss(images),
            self._validation_loss(images, test),
            parameters,
            hyperparameters,
            learning_rate=self.config.learning_rate,
            momentum=self.config.momentum,
            velocity=self._velocity,
            first_order=self.config.strategy == "first_order",
            recompute=self.config.recompute,
            enter=self._enter,
        )
        _copy(parameters, step.parameters)
        state = {
            **prefixed("optimizer", self._optimizer.state()),
            **prefixed("augmentation", hyperparameters),
        }
        before = _copied(state)
        gradients = [step.gradient[name] for name in hyperparameters]
        finite = torch.isfinite(step.validation_loss)
        for gradient in gradients:
            finite &= torch.isfinite(gradient).all()
        self._optimizer.step(gradients, self._index - self.config.warm_up)
        self.augmentation.constrain_()
        for value in hyperparameters.values():
            finite &= torch.isfinite(value).all()
        _copy(state, {k: torch.where(finite, v, before[k]) for k, v in state.items()})
        return step.train_loss, step.validation_loss

    def _hyper_learning_rate(self, iteration: int) -> float:
        config = self.config
        if config.hyper_schedule == "constant":
            return config.hyper_learning_rate
        return (
            config.hyper_learning_rate * (1 + math.cos(math.pi * iteration / config.iterations)) / 2
        )

    def _update_and_validate(self) -> tuple[Tensor, Tensor]:
        train_loss = self._update()
        images, test = self._draw(self.train), self._draw(self.test)
        with torch.no_grad():
            parameters: Tensors = dict(self.detector.named_parameters())
            hyperparameters: Tensors = dict(self.augmentation.named_parameters())
            loss = self._validation_loss(images, test)(parameters, hyperparameters)
        return train_loss, loss


def _copied(tensors: Tensors) -> Tensors:
    return {name: value.detach().clone() for name, value in tensors.items()}


@torch.no_grad()
def _copy(tensors: Tensors, values: Tensors) -> None:
    for name, value in tensors.items():
        value.copy_(values[name])
