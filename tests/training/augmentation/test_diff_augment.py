import pytest
import torch

from training.augmentation.diff_augment import diff_augment


@pytest.mark.parametrize(("side", "most"), [(16, 2), (20, 3), (32, 4), (36, 5), (64, 8)])
def test_translation_shifts_by_an_eighth_rounded_half_up(side, most):
    point = torch.zeros(300, 1, side, side)
    point[:, :, side // 2, side // 2] = 1
    torch.manual_seed(0)
    places = diff_augment(point, ["translation"])[:, 0].nonzero()[:, 1:]
    assert len(places) == 300
    shifts = places - side // 2
    assert set(shifts.flatten().tolist()) == set(range(-most, most + 1))


@pytest.mark.parametrize(("side", "size"), [(16, 8), (18, 9), (31, 16), (32, 16), (64, 32)])
def test_cutout_is_half_of_the_side_and_may_reach_beyond_the_border(side, size):
    torch.manual_seed(0)
    is_cut = diff_augment(torch.ones(3000, 1, side, side), ["cutout"])[:, 0] == 0
    heights = is_cut.any(2).sum(1)
    assert heights.max() == size
    # The center is anywhere in the image, also on its border.
    assert heights.min() == (size + 1) // 2
    centered = heights == size
    # Each cut is one interval, and every full one is as frequent as another.
    starts = is_cut.any(2).int().argmax(1)[centered]
    counts = torch.bincount(starts, minlength=side - size + 1)
    assert len(counts) == side - size + 1
    assert counts.min() > 0


def test_colour_leaves_alpha_alone():
    images = torch.rand(16, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(0)
    changed = diff_augment(images, ["colour"])
    assert torch.equal(changed[:, 3], images[:, 3])
    assert (changed[:, :3] - images[:, :3]).abs().amax((1, 2, 3)).min() > 0.01
    # Without alpha, the same change.
    torch.manual_seed(0)
    torch.testing.assert_close(diff_augment(images[:, :3], ["colour"]), changed[:, :3])
