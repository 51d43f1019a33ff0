"""Differentiable augmentations that hold their hyperparameters."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stssad_fast.ops import cutdiff, patch_parameters, patch_shape, rotate
from stssad_fast.ops._operators import check_finite

MIN_SIZE, MAX_SIZE, MAX_ASPECT, MAX_JITTER = 1e-6, 1.0, 16.0, 3.0


class Augmentation(nn.Module):
    """Makes pseudo-anomalies; its parameters are the hyperparameters ``a`` that are tuned.

    A subclass gives ``forward(image, *, generator=None)``, :meth:`describe`, :meth:`draw_` and
    :meth:`starts`; the tuner needs nothing else.
    """

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Pseudo-anomalies of ``image`` (B, C, H, W), of the same shape."""
        raise NotImplementedError

    def describe(self) -> dict[str, float]:
        """Hyperparameters by name, in the units a person uses."""
        raise NotImplementedError

    def draw_(self, generator: torch.Generator) -> None:
        """Set the hyperparameters to a random draw from their prior."""
        raise NotImplementedError

    def constrain_(self) -> None:
        """Bring the hyperparameters back into their range after a gradient step."""

    @classmethod
    def starts(cls) -> Sequence[dict[str, float]]:
        """Constructor arguments of the paper's starting points."""
        raise NotImplementedError


class CutDiff(Augmentation):
    """Subtracts a soft elliptical patch at a random place (paper, 3.2.1 and Alg. 2).

    Args:
        size: area-like, positive, in units of the picture; the 1/e contour has radius
            ``sqrt(size)``.
        aspect: width over height, positive.
        angle: degrees, counter-clockwise.
        parametrization: what gradient steps move: ``"log"``: log size, log aspect and the angle
            in radians, where every step ends with size in [1e-6, 1] and aspect in [1/16, 16], also
            if they began elsewhere; ``"cholesky"``: the entries of ``L``, as in the paper.
        jitter: standard deviation, in [0, 3], of a normal draw for every picture that is added to
            log size, log aspect and the angle in radians. 0: one patch for all pictures, as in the
            paper; else the parametrization must be ``"log"``.

    Raises:
        TypeError: size, aspect or angle is not a number.
        ValueError: size or aspect is not positive and finite, angle not finite, jitter out of
            range or not with this parametrization, or there is no such parametrization.
    """

    def __init__(
        self,
        size: float = 0.01,
        aspect: float = 1.0,
        angle: float = 0.0,
        parametrization: Literal["log", "cholesky"] = "log",
        jitter: float = 0.0,
    ) -> None:
        super().__init__()
        self.parametrization, self.jitter = parametrization, jitter
        if not 0 <= jitter <= MAX_JITTER:
            raise ValueError(f"jitter is {jitter}, expected a number in [0, {MAX_JITTER:g}]")
        if jitter and parametrization != "log":
            raise ValueError(
                f"jitter is {jitter} and parametrization {parametrization!r}; expected jitter 0, "
                "or parametrization 'log'"
            )
        values = patch_shape(size, aspect, angle)
        if parametrization == "log":
            values = torch.tensor([math.log(size), math.log(aspect), math.radians(angle)])
        elif parametrization != "cholesky":
            raise ValueError(f"parametrization is {parametrization!r}; choose 'log' or 'cholesky'")
        self.raw = nn.Parameter(values)

    @property
    def shape(self) -> Tensor:
        """(3,): ``l11, l21, l22``, without jitter."""
        return self.raw if self.parametrization == "cholesky" else _shape(self.raw)

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        shape = self.shape
        if self.jitter:
            noise = torch.empty(len(image), 3, dtype=self.raw.dtype, device=self.raw.device)
            shape = _shape(self.raw + self.jitter * noise.normal_(generator=generator))
        return cutdiff(image, shape, generator=generator)

    def describe(self) -> dict[str, float]:
        if self.parametrization == "log":
            log_size, log_aspect, radians = self.raw.detach().unbind()
            size, aspect, angle = log_size.exp(), log_aspect.exp(), torch.rad2deg(radians)
        else:
            size, aspect, angle = patch_parameters(self.shape.detach())
        return {"size": size.item(), "aspect": aspect.item(), "angle": angle.item()}

    def draw_(self, generator: torch.Generator) -> None:
        u = torch.rand(3, generator=generator, device=generator.device).tolist()
        size, aspect, angle = 10 ** (-4 + 3 * u[0]), 4 ** (2 * u[1] - 1), 180 * u[2]
        fresh = CutDiff(size, aspect, angle, self.parametrization)
        self.raw.data.copy_(fresh.raw.data)

    def constrain_(self) -> None:
        if self.parametrization == "log":
            self.raw.data[0].clamp_(math.log(MIN_SIZE), math.log(MAX_SIZE))
            self.raw.data[1].clamp_(-math.log(MAX_ASPECT), math.log(MAX_ASPECT))

    @classmethod
    def starts(cls) -> Sequence[dict[str, float]]:
        return [{"size": size} for size in (1e-4, 1e-3, 1e-2, 1e-1)]


def _shape(raw: Tensor) -> Tensor:
    """Shapes (..., 3) for log size, log aspect and angle in radians (..., 3)."""
    log_size, log_aspect, radians = raw.unbind(-1)
    return patch_shape(log_size.exp(), log_aspect.exp(), torch.rad2deg(radians))


class Rotation(Augmentation):
    """Rotates by one angle for all pictures (paper, 3.2.2).

    Args:
        angle: degrees, counter-clockwise.

    Raises:
        TypeError: angle is not a number.
        ValueError: angle is not finite.
    """

    def __init__(self, angle: float = 45.0) -> None:
        super().__init__()
        radians = torch.tensor(math.radians(angle))
        check_finite(radians, "angle")
        self.radians = nn.Parameter(radians)

    @property
    def angle(self) -> Tensor:
        """Degrees."""
        return torch.rad2deg(self.radians)

    def forward(self, image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return rotate(image, self.angle)

    def describe(self) -> dict[str, float]:
        return {"angle": self.angle.item() % 360.0}

    def draw_(self, generator: torch.Generator) -> None:
        turn = torch.rand((), generator=generator, device=generator.device)
        self.radians.data.copy_(2 * math.pi * turn)

    @classmethod
    def starts(cls) -> Sequence[dict[str, float]]:
        return [{"angle": angle} for angle in (45.0, 135.0, 225.0, 315.0)]
