"""Training steps of other implementations, for comparison.

The DCGAN step is a plain loop. The other steps use checkouts that are not part of this repository.
This module calls their networks in the order of their training loops, and also their losses if
these are in a separate module. Each runs unmodified in float32, with our widths, batch size and
regularization.
"""

from __future__ import annotations

import copy
import importlib
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import cpp_extension

# One training step on a batch of real images.
Step = Callable[[], object]


def dcgan(batch: int, side: int, z_dim: int, width: int) -> Step:
    """DCGAN: binary cross-entropy, one step per player on the same generated batch."""
    widths = [width * 8, width * 4, width * 2, width]
    up: list[nn.Module] = []
    for fan_in, fan_out in zip([z_dim, *widths], widths, strict=False):
        first = fan_in == z_dim
        up += [
            nn.ConvTranspose2d(
                fan_in, fan_out, 4, 1 if first else 2, 0 if first else 1, bias=False
            ),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(True),
        ]
    generator = nn.Sequential(*up, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())
    down: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for fan_in, fan_out in zip(widths[::-1], widths[-2::-1], strict=False):
        down += [
            nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.LeakyReLU(0.2, True),
        ]
    discriminator = nn.Sequential(*down, nn.Conv2d(width * 8, 1, 4, bias=False), nn.Sigmoid())
    optimizers = [
        torch.optim.Adam(player.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for player in (discriminator, generator)
    ]
    real = torch.rand(batch, 3, side, side) * 2 - 1
    label = partial(torch.full, (batch,))

    def step() -> None:
        discriminator.zero_grad()
        F.binary_cross_entropy(discriminator(real).view(-1), label(1.0)).backward()
        fake = generator(torch.randn(batch, z_dim, 1, 1))
        F.binary_cross_entropy(discriminator(fake.detach()).view(-1), label(0.0)).backward()
        optimizers[0].step()
        generator.zero_grad()
        F.binary_cross_entropy(discriminator(fake).view(-1), label(1.0)).backward()
        optimizers[1].step()

    return step


def stylegan2(checkout: Path, batch: int, side: int, z_dim: int, width: int) -> Step:
    """StyleGAN2 from rosinality/stylegan2-pytorch, in the order of its train.py."""
    # Its CUDA operators are compiled on import and not used on a CPU.
    with _imports(checkout), _no_compiler():
        source = (checkout / "model.py").read_text()
        model = types.ModuleType("reference_stylegan2")
        # Its widths are constants: 512 up to 64 pixels, which takes minutes per step on a CPU.
        exec(compile(source.replace(": 512,", f": {width},"), "model.py", "exec"), model.__dict__)
    generator = model.Generator(side, z_dim, 4, channel_multiplier=1)
    discriminator = model.Discriminator(side, channel_multiplier=1)
    average = copy.deepcopy(generator)
    discriminator_optimizer = torch.optim.Adam(
        discriminator.parameters(), lr=0.002, betas=(0.0, 0.99)
    )
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=0.002, betas=(0.0, 0.99))
    real = torch.rand(batch, 3, side, side) * 2 - 1
    state: dict[str, Any] = {"turn": 0, "length": torch.zeros(())}

    def noise(count: int) -> list[Tensor]:
        return [torch.randn(count, z_dim) for _ in range(2 if random.random() < 0.9 else 1)]

    def step() -> None:
        turn = state["turn"]
        state["turn"] += 1
        generator.requires_grad_(False)
        discriminator.requires_grad_(True)
        fake, _ = generator(noise(batch))
        loss = F.softplus(discriminator(fake)).mean() + F.softplus(-discriminator(real)).mean()
        discriminator.zero_grad()
        loss.backward()
        discriminator_optimizer.step()
        if turn % 16 == 0:
            real_input = real.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(
                discriminator(real_input).sum(), real_input, create_graph=True
            )
            discriminator.zero_grad()
            (10 / 2 * 16 * gradient.square().flatten(1).sum(1).mean()).backward()
            discriminator_optimizer.step()
        generator.requires_grad_(True)
        discriminator.requires_grad_(False)
        fake, _ = generator(noise(batch))
        generator.zero_grad()
        F.softplus(-discriminator(fake)).mean().backward()
        generator_optimizer.step()
        if turn % 4 == 0:
            fake, w = generator(noise(batch // 2), return_latents=True)
            projection = (fake * torch.randn_like(fake) / side).sum()
            (gradient,) = torch.autograd.grad(projection, w, create_graph=True)
            lengths = gradient.square().sum(2).mean(1).sqrt()
            mean = state["length"].lerp(lengths.mean(), 0.01)
            state["length"] = mean.detach()
            generator.zero_grad()
            (2 * 4 * (lengths - mean).square().mean() + 0 * fake[0, 0, 0, 0]).backward()
            generator_optimizer.step()
        _update_average(average, generator)

    return step


def biggan(checkout: Path, batch: int, side: int, z_dim: int, width: int) -> Step:
    """BigGAN from ajbrock/BigGAN-PyTorch, in the order of its train_fns.py."""
    with _imports(checkout):
        networks = importlib.import_module("BigGAN")
    common = {"resolution": side, "n_classes": 5, "init": "ortho"}
    generator = networks.Generator(
        G_ch=width, dim_z=z_dim, G_attn="0", hier=True, G_shared=True, shared_dim=64,
        G_lr=2e-4, **common,
    )  # fmt: skip
    discriminator = networks.Discriminator(D_ch=width, D_attn="0", D_lr=2e-4, **common)
    both = networks.G_D(generator, discriminator)
    average = copy.deepcopy(generator)
    real = torch.rand(batch, 3, side, side) * 2 - 1

    def classes() -> Tensor:
        return torch.randint(5, (batch,))

    def step() -> None:
        discriminator.requires_grad_(True)
        generator.requires_grad_(False)
        generator.optim.zero_grad()
        discriminator.optim.zero_grad()
        fake, true = both(torch.randn(batch, z_dim), classes(), real, classes())
        (F.relu(1 - true).mean() + F.relu(1 + fake).mean()).backward()
        discriminator.optim.step()
        discriminator.requires_grad_(False)
        generator.requires_grad_(True)
        generator.optim.zero_grad()
        (-both(torch.randn(batch, z_dim), classes(), train_G=True).mean()).backward()
        generator.optim.step()
        _update_average(average, generator)

    return step


def cyclegan(checkout: Path, batch: int, side: int, width: int) -> Step:
    """CycleGAN's own step, from junyanz/pytorch-CycleGAN-and-pix2pix or a derived project."""
    with _imports(checkout, packages=("models", "util")):
        networks = importlib.import_module("models.networks")
        model = importlib.import_module("models.cycle_gan_model").CycleGANModel
        pool = importlib.import_module("util.image_pool").ImagePool
    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    # The paper's architecture; later versions add an antialiasing filter before downsampling.
    plain = {"no_antialias": True}
    filtering = "no_antialias" in networks.ResnetGenerator.__init__.__code__.co_varnames
    for_g = {**plain, "no_antialias_up": True} if filtering else {}
    for_d = plain if filtering else {}
    instance = model.__new__(model)
    instance.opt = types.SimpleNamespace(
        lambda_A=10.0, lambda_B=10.0, lambda_identity=0.5, amp=False
    )
    for side_name in "AB":
        generator = networks.ResnetGenerator(3, 3, width, norm_layer=norm, n_blocks=6, **for_g)
        discriminator = networks.NLayerDiscriminator(3, width, 3, norm_layer=norm, **for_d)
        setattr(instance, f"netG_{side_name}", generator)
        setattr(instance, f"netD_{side_name}", discriminator)
        setattr(instance, f"fake_{side_name}_pool", pool(50))
        setattr(instance, f"real_{side_name}", torch.rand(batch, 3, side, side) * 2 - 1)
    instance.criterionGAN = networks.GANLoss("lsgan")
    instance.criterionCycle = instance.criterionIdt = nn.L1Loss()
    for player in "GD":
        weights = [
            weight
            for side_name in "AB"
            for weight in getattr(instance, f"net{player}_{side_name}").parameters()
        ]
        setattr(instance, f"optimizer_{player}", torch.optim.Adam(weights, 2e-4, (0.5, 0.999)))
    step: Step = instance.optimize_parameters
    return step


def _update_average(average: nn.Module, network: nn.Module, decay: float = 0.999) -> None:
    with torch.no_grad():
        latest = dict(network.named_parameters())
        for name, weight in average.named_parameters():
            weight.mul_(decay).add_(latest[name], alpha=1 - decay)


@contextmanager
def _imports(checkout: Path, packages: tuple[str, ...] = ()) -> Iterator[None]:
    """Make a checkout importable; `packages` are imported without running their ``__init__``."""
    sys.path.insert(0, str(checkout))
    for name in packages:
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name)]
        sys.modules[name] = package
    try:
        yield
    finally:
        sys.path.remove(str(checkout))


@contextmanager
def _no_compiler() -> Iterator[None]:
    """Prevent PyTorch from compiling extensions."""
    load = cpp_extension.load
    cpp_extension.load = lambda *_, **__: None
    try:
        yield
    finally:
        cpp_extension.load = load
