"""What holds for every kind of augmentation."""

import pytest
import torch

from training.augmentation.ada import ADAOptions, ada
from training.augmentation.augment import build_augment
from training.augmentation.diff_augment import DiffAugmentOptions, diff_augment

POLICIES = [["colour"], ["translation"], ["cutout"], ["colour", "translation", "cutout"]]


def images_of_noise(count=16, channels=3, size=32, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


CHANGES = {
    **{
        f"diffaugment {'+'.join(policy)}": lambda x, p=policy: diff_augment(x, p)
        for policy in POLICIES
    },
    "ada": lambda x: ada(x, 0.8),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_augments_each_image_differently(name, channels):
    same = images_of_noise(1, channels).expand(16, -1, -1, -1)
    torch.manual_seed(0)
    changed = CHANGES[name](same)
    assert changed.shape == same.shape
    assert torch.isfinite(changed).all()
    assert len(torch.unique(changed.flatten(1), dim=0)) > 8


@pytest.mark.parametrize("name", CHANGES)
def test_same_random_state_gives_same_augmentation(name):
    images = images_of_noise()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(CHANGES[name](images))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", CHANGES)
def test_gradients_reach_the_images(name):
    images = images_of_noise().requires_grad_(True)
    torch.manual_seed(0)
    CHANGES[name](images).square().sum().backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).float().mean() > 0.9


def test_ada_probability_follows_sign_of_real_logits():
    augment = build_augment(ADAOptions(kind="ada", target=0.6, ramp_images=1000, limit=0.5))
    assert augment.adapts
    for _ in range(3):
        augment.adapt(0.9, 100)
    assert augment.probability == pytest.approx(0.3)
    for _ in range(5):
        augment.adapt(0.9, 100)
    assert augment.probability == 0.5
    augment.adapt(0.1, 200)
    assert augment.probability == pytest.approx(0.3)
    for _ in range(9):
        augment.adapt(0.1, 100)
    assert augment.probability == 0.0


def test_fixed_augmentation_does_not_adapt():
    for options in (None, DiffAugmentOptions(kind="diffaugment")):
        augment = build_augment(options)
        assert not augment.adapts
        augment.adapt(1.0, 10**9)
        assert augment.probability == 0.0
    images = images_of_noise()
    assert build_augment(None)(images) is images
