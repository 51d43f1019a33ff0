"""Algorithm 1 of the paper for one starting point, as a sequence of steps that can be stopped."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from stssad_fast.augment import Augmentation
from stssad_fast.checkpoint import prefixed, under
from stssad_fast.datasets import Pictures, ReadAhead, batches
from stssad_fast.ops import mean_distance_loss
from stssad_fast.tuning.hypergradient import Loss, Tensors, bilevel_step
from stssad_fast.tuning.validation import loss_over_all

Strategy = Literal["second_order", "first_order", "random_dynamic", "random_static"]


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
    smoothing: float = 0.9
    patience: int | None = None


class Tuner:
    """Alternates parameter updates of the detector and hypergradient steps of the augmentation.

    Args:
        detector: gives ``(embedding, logit)``; trained in place.
        augmentation: its parameters are tuned in place.
        train, test: pictures (N, C, H, W) in [0, 1], wherever they are.
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
        self.step_count = 0
        self.history: dict[str, list[float]] = {}
        self.best_iteration = -1
        self.stopped = ""
        self._best: Tensors = {}
        self._best_criterion = math.inf
        self._smoothed = 0.0
        self._velocity: Tensors = {k: torch.zeros_like(v) for k, v in detector.named_parameters()}
        self._optimizer: torch.optim.Optimizer
        if config.hyper_optimizer == "adam":
            self._optimizer = torch.optim.Adam(
                augmentation.parameters(), config.hyper_learning_rate
            )
        else:
            self._optimizer = torch.optim.SGD(augmentation.parameters(), config.hyper_learning_rate)

    @property
    def total_steps(self) -> int:
        """Warm-up steps and iterations together."""
        return self.config.warm_up + self.config.iterations

    @property
    def done(self) -> bool:
        """Whether this start has ended; ``stopped`` says why."""
        return bool(self.stopped)

    def step(self) -> None:
        """One warm-up step, or one iteration of Algorithm 1."""
        config = self.config
        epoch = math.ceil(len(self.train.pictures) / config.batch_size)
        if config.strategy == "random_dynamic" and self.step_count % epoch == 0:
            self.augmentation.draw_(self.generator)
        warming_up = self.step_count < config.warm_up
        losses = (self._update(), 0.0) if warming_up else self._iterate()
        self.step_count += 1
        if not all(math.isfinite(loss) for loss in losses):
            self.stopped = "diverged"
        elif self.step_count == self.total_steps:
            self.stopped = "finished"
        elif self._impatient():
            self.stopped = f"no progress for {config.patience} iterations"
        if self.done and self._best:
            self._restore_best()

    def _iterate(self) -> tuple[float, float]:
        used = {k: v.detach().clone() for k, v in self.augmentation.named_parameters()}
        described = self.augmentation.describe()
        for _ in range(self.config.updates - 1):
            self._update()
        train_loss, validation_loss = self._bilevel() if self.tunes else self._update_and_validate()
        iteration = self.step_count - self.config.warm_up
        record = {"iteration": iteration, "train_loss": train_loss}
        for name, value in {**record, "validation_loss": validation_loss, **described}.items():
            self.history.setdefault(name, []).append(value)

        smoothing = self.config.smoothing
        self._smoothed = smoothing * self._smoothed + (1 - smoothing) * (
            train_loss + validation_loss
        )
        criterion = self._smoothed / (1 - smoothing ** (iteration + 1))
        if math.isfinite(criterion) and (criterion < self._best_criterion or not self.tunes):
            self._best_criterion, self.best_iteration = criterion, iteration
            detector = {k: v.detach().clone() for k, v in self.detector.state_dict().items()}
            self._best = {**prefixed("detector", detector), **prefixed("augmentation", used)}
        return train_loss, validation_loss

    def _impatient(self) -> bool:
        iteration = self.step_count - self.config.warm_up
        patience = self.config.patience
        return (
            patience is not None and self.tunes and iteration - 1 - self.best_iteration >= patience
        )

    def _restore_best(self) -> None:
        self.detector.load_state_dict(under("detector", self._best))
        self.augmentation.load_state_dict(under("augmentation", self._best))

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything needed to go on to the identical result, as tensors and JSON-able values."""
        moments = {
            f"{index}.{key}": torch.as_tensor(value)
            for index, entry in self._optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        tensors = {
            **prefixed("detector", self.detector.state_dict()),
            **prefixed("augmentation", self.augmentation.state_dict()),
            **prefixed("velocity", self._velocity),
            **prefixed("optimizer", moments),
            **prefixed("best", self._best),
            "generator": self.generator.get_state(),
        }
        values = {
            "step_count": self.step_count,
            "history": self.history,
            "best_iteration": self.best_iteration,
            "best_criterion": None if math.isinf(self._best_criterion) else self._best_criterion,
            "smoothed": self._smoothed,
        }
        return tensors, values

    def load_state(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Go back to a state that :meth:`state` gave."""
        device = self.generator.device
        moved = {k: v.to(device) for k, v in tensors.items() if k != "generator"}
        self.detector.load_state_dict(under("detector", moved))
        self.augmentation.load_state_dict(under("augmentation", moved))
        self._velocity = under("velocity", moved)
        self._best = under("best", moved)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in under("optimizer", moved).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor.cpu() if key == "step" else tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.generator.set_state(tensors["generator"].cpu())
        self.step_count = values["step_count"]
        self.history = values["history"]
        self.best_iteration = values["best_iteration"]
        criterion = values["best_criterion"]
        self._best_criterion = math.inf if criterion is None else criterion
        self._smoothed = values["smoothed"]

    @property
    def tunes(self) -> bool:
        """Whether gradients move the augmentation."""
        return self.config.strategy in ("second_order", "first_order")

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
            both = torch.cat([images, self._augment(hyperparameters, images)])
            _, logit = functional_call(self.detector, parameters, (both,))
            smoothing = self.config.label_smoothing
            truth = torch.full_like(logit, smoothing / 2)
            truth[len(images) :] = 1 - smoothing / 2
            return F.binary_cross_entropy_with_logits(logit, truth)

        return loss

    def _loss_over_all(self, images: Tensor) -> Loss:
        def embed(parameters: Tensors, batch: Tensor) -> Tensor:
            found: Tensor = functional_call(self.detector, parameters, (batch,))[0]
            return found

        def loss(parameters: Tensors, hyperparameters: Tensors) -> Tensor:
            self.detector.eval()
            augmented = self._augment(hyperparameters, images)
            self._look_ahead(test=False)
            device = self.generator.device
            return loss_over_all(
                embed,
                parameters,
                images,
                augmented,
                lambda: (batch.to(device) for batch in batches(self.test.pictures)),
            )

        return loss

    def _validation_loss(self, images: Tensor, test: Tensor) -> Loss:
        if self.config.validation == "all":
            return self._loss_over_all(images)

        def loss(parameters: Tensors, hyperparameters: Tensors) -> Tensor:
            self.detector.train(self.config.validation_norm == "joint")
            stacked = torch.cat([images, self._augment(hyperparameters, images), test])
            self._look_ahead(test=self.tunes and self.config.updates == 1)
            buffers = {k: v.clone() for k, v in self.detector.named_buffers()}
            embedding, _ = functional_call(self.detector, (parameters, buffers), (stacked,))
            if not torch.isfinite(embedding).all():
                return math.nan * embedding.sum()  # diverged; the op would raise
            count = len(images)
            return mean_distance_loss(
                embedding[:count], embedding[count : 2 * count], embedding[2 * count :]
            )

        return loss

    def _update(self) -> float:
        """One SGD step of the detector at the present augmentation."""
        parameters: Tensors = dict(self.detector.named_parameters())
        hyperparameters = {k: v.detach() for k, v in self.augmentation.named_parameters()}
        loss = self._train_loss(self._draw(self.train))(parameters, hyperparameters)
        self._look_ahead(test=not self.tunes)
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        with torch.no_grad():
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
                self._velocity[name].mul_(self.config.momentum).add_(gradient)
                value.sub_(self._velocity[name], alpha=self.config.learning_rate)
        return loss.item()

    def _bilevel(self) -> tuple[float, float]:
        images, test = self._draw(self.train), self._draw(self.test)
        parameters: Tensors = dict(self.detector.named_parameters())
        hyperparameters: Tensors = dict(self.augmentation.named_parameters())
        step = bilevel_step(
            self._train_loss(images),
            self._validation_loss(images, test),
            parameters,
            hyperparameters,
            learning_rate=self.config.learning_rate,
            momentum=self.config.momentum,
            velocity=self._velocity,
            first_order=self.config.strategy == "first_order",
        )
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(step.parameters[name])
        self._velocity = step.velocity
        if all(torch.isfinite(value).all() for value in step.gradient.values()):
            for name, value in hyperparameters.items():
                value.grad = step.gradient[name]
            self._optimizer.param_groups[0]["lr"] = self._hyper_learning_rate()
            self._optimizer.step()
            self.augmentation.constrain_()
        return step.train_loss.item(), step.validation_loss.item()

    def _hyper_learning_rate(self) -> float:
        config = self.config
        if config.hyper_schedule == "constant":
            return config.hyper_learning_rate
        done = (self.step_count - config.warm_up) / config.iterations
        return config.hyper_learning_rate * (1 + math.cos(math.pi * done)) / 2

    def _update_and_validate(self) -> tuple[float, float]:
        train_loss = self._update()
        images, test = self._draw(self.train), self._draw(self.test)
        with torch.no_grad():
            parameters: Tensors = dict(self.detector.named_parameters())
            hyperparameters: Tensors = dict(self.augmentation.named_parameters())
            loss = self._validation_loss(images, test)(parameters, hyperparameters)
        return train_loss, loss.item()
