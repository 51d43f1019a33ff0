"""Any network that embeds pictures, in the place of ResNet-18."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stssad_fast.detectors.normalising import Normalising
from stssad_fast.errors import InputError


class BackboneDetector(Normalising):
    """A copy of a given network embeds, an MLP classifies the embeddings.

    Pictures are normalised here, after augmentation: by the backbone's own ``mean`` and ``std``, if
    it has attributes of these names (numbers, or one per channel: those it was pretrained with; 0
    and 1 if it normalises by itself), else by those of the training pictures. A backbone that
    refuses grey pictures gets them as three equal channels. On the CPU they come channels-last, the
    faster layout, if the backbone embeds such pictures as it embeds others.

    Parameters that ask for no gradient are held as buffers, and stay what they are. Random layers
    (dropout) draw from a seed of their own, which is a buffer: one seed gives one result, also
    across processes and checkpoints, and the global generator is left as it was.

    Args:
        backbone: gives embeddings (B, D), floating-point, for pictures (B, C, H, W); not changed.
        channels: of the pictures, 1 or 3.
        image_size: their height and width in pixels.
        mean, std: per channel, of the training pictures.
        unit_embedding: scale every embedding to length 1.

    Attributes:
        dimensions: D.
        draws: whether the backbone draws random numbers in training.

    Raises:
        InputError: the backbone fails on such pictures, gives no floating-point (B, D) with D > 0,
            or its mean and std cannot be used; in training, its embeddings have no gradient.
    """

    seed: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        image_size: tuple[int, int],
        mean: Tensor | None = None,
        std: Tensor | None = None,
        unit_embedding: bool = True,
    ) -> None:
        super().__init__(channels, mean, std)
        self.unit_embedding = unit_embedding
        self.backbone = copy.deepcopy(backbone).cpu().float()
        self.channels, self.dimensions, self.draws = _tried(self.backbone, channels, image_size)
        self._channels_last = _takes_channels_last(self.backbone, self.channels, image_size)
        self.backbone.train()
        own = _own_normalisation(backbone, self.channels)
        if own is not None:
            self.mean, self.std = (value.clone() for value in own)
        self.register_buffer("seed", torch.randint(2**62, ()))
        _freeze(self.backbone)
        d = self.dimensions
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 1))

    def embed(self, image: Tensor) -> Tensor:
        """Embedding (B, D) of pictures (B, C, H, W) in [0, 1]."""
        x = self.normalised(image.expand(-1, self.channels, -1, -1))
        if self._channels_last and x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        if self.training and self.draws:
            with _seeded(int(self.seed), x.device):
                z: Tensor = self.backbone(x)
            self.seed.add_(1)
        else:
            z = self.backbone(x)
        if not z.requires_grad and torch.is_grad_enabled():
            self._check_constant(image)
        return F.normalize(z, dim=1) if self.unit_embedding else z

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (B, D), and the logit (B,) of being augmented."""
        z = self.embed(image)
        return z, self.head(z)[:, 0]

    def _check_constant(self, image: Tensor) -> None:
        """Raise if embeddings without a gradient should have one."""
        trained = self.training and any(p.requires_grad for p in self.backbone.parameters())
        if trained or image.requires_grad:
            raise InputError(
                f"backbone {backbone_name(self.backbone)} gives embeddings without a gradient, "
                "which training needs. Take torch.no_grad() and detach() out of it; of parameters "
                "that are to stay as they are, set requires_grad to False"
            )


def backbone_name(backbone: nn.Module) -> str:
    """Where the class of a backbone is defined, and its name."""
    return f"{type(backbone).__module__}.{type(backbone).__qualname__}"


def module_digest(module: nn.Module) -> str:
    """Short digest of a user's module: its class, layers, weights, and a backbone's normalisation.

    What else it keeps as an attribute does not count.
    """
    own = [repr(getattr(module, name, None)) for name in ("mean", "std")]
    digest = hashlib.sha256(repr([backbone_name(module), repr(module), own]).encode())
    for name, value in module.state_dict().items():
        digest.update(repr((name, value.dtype, tuple(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


@torch.no_grad()
def _tried(
    backbone: nn.Module, channels: int, image_size: tuple[int, int]
) -> tuple[int, int, bool]:
    """Channels that it takes for such pictures, dimensions, and whether it draws in training."""
    name = backbone_name(backbone)
    troubles: list[Exception] = []
    for given in (channels, 3) if channels == 1 else (channels,):
        image = torch.zeros(2, given, *image_size)
        before = torch.get_rng_state()
        try:
            embeddings = [backbone.eval()(image), copy.deepcopy(backbone).train()(image)]
            draws = not torch.equal(torch.get_rng_state(), before)
        except Exception as error:  # whatever the code of another raises
            troubles.append(error)
            continue
        finally:
            torch.set_rng_state(before)
        for z in embeddings:
            if not (
                isinstance(z, Tensor)
                and z.is_floating_point()
                and z.ndim == 2
                and len(z) == 2
                and z.shape[1] > 0
            ):
                found = type(z).__name__
                if isinstance(z, Tensor):
                    found = f"{tuple(z.shape)} of {z.dtype}"
                raise InputError(
                    f"backbone {name} gives {found} for pictures {tuple(image.shape)}, expected a "
                    "tensor of embeddings (2, D) of floats, D > 0. Pool and flatten what it gives"
                )
        return given, embeddings[0].shape[1], draws
    raise InputError(
        f"backbone {name} cannot take pictures {(2, channels, *image_size)} ({troubles[0]}). Give "
        "one for pictures of this kind, or convert or resize the pictures"
    ) from troubles[0]


@torch.no_grad()
def _takes_channels_last(backbone: nn.Module, channels: int, image_size: tuple[int, int]) -> bool:
    """Whether layout changes nothing: ``view`` may fail, code of one's own misread the memory."""
    image = torch.rand(2, channels, *image_size, generator=torch.Generator().manual_seed(0))
    other = image.contiguous(memory_format=torch.channels_last)
    with _seeded(0, image.device):
        try:
            copy.deepcopy(backbone).train()(other)
            plain, found = backbone.eval()(image), backbone(other)
            return bool((found - plain).abs().max() <= 1e-3 * plain.abs().max())
        except Exception:  # whatever the code of another raises
            return False


def _own_normalisation(backbone: nn.Module, channels: int) -> tuple[Tensor, Tensor] | None:
    found = [getattr(backbone, name, None) for name in ("mean", "std")]
    if found == [None, None]:
        return None
    try:
        mean, std = (
            torch.as_tensor(value, dtype=torch.float32).detach().cpu().reshape(-1)
            for value in found
        )
        if not (len(mean) in (1, channels) and len(std) in (1, channels)):
            raise ValueError("wrong length")
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise ValueError("not finite, or not positive")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"backbone {backbone_name(backbone)} has mean {found[0]!r} and std {found[1]!r}, "
            f"expected a number or {channels} each, std positive. Set both, or neither"
        ) from error
    return mean, std


def _freeze(backbone: nn.Module) -> None:
    """Make buffers of the parameters that ask for no gradient; names stay as they are."""
    for module in backbone.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if not value.requires_grad:
                delattr(module, name)
                module.register_buffer(name, value.detach())


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random layers on this device draw from ``seed`` on; afterwards the generator is as before."""
    cuda = device.type == "cuda"
    generator = torch.cuda.default_generators[device.index] if cuda else torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
