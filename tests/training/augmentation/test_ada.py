import pytest
import torch

from training.augmentation.ada import ADAOptions, ada


def noise(channels=3, count=16):
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_ada_changes_more_images_with_higher_probability():
    images = noise(count=64)
    torch.testing.assert_close(ada(images, 0.0), images, rtol=0, atol=0)
    changed = []
    for probability in (0.05, 0.3, 0.8):
        torch.manual_seed(0)
        different = (ada(images, probability) - images).abs().amax((1, 2, 3)) > 0.02
        changed.append(different.float().mean().item())
    assert changed[0] < changed[1] < changed[2]


def test_ada_keeps_gray_images_gray():
    gray = noise(1).expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    changed = ada(gray, 0.9)
    torch.testing.assert_close(changed[:, 0], changed[:, 1], rtol=0, atol=1e-4)
    torch.testing.assert_close(changed[:, 0], changed[:, 2], rtol=0, atol=1e-4)


def test_colours_leave_alpha_alone():
    images = noise(4)
    torch.manual_seed(0)
    changed = ada(images, 0.9, ["colour"])
    assert torch.equal(changed[:, 3], images[:, 3])
    assert not torch.equal(changed[:, :3], images[:, :3])


def test_policy_selects_the_transforms():
    flat = torch.full((64, 3, 16, 16), 0.5)
    torch.manual_seed(0)
    moved = ada(flat, 0.9, ["blitting"])
    torch.testing.assert_close(moved, flat, atol=1e-3, rtol=0)
    torch.manual_seed(0)
    colored = ada(flat, 0.9, ["colour"])
    assert (colored - flat).abs().amax((1, 2, 3)).median() > 0.1
    assert ADAOptions(kind="ada").policy == ("blitting", "geometry", "colour")
    with pytest.raises(ValueError, match="policy"):
        ADAOptions(kind="ada", policy=["cutout"])
