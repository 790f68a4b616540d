import pytest
import torch

from training.augment import ADAOptions, Augment, DiffAugmentOptions, ada, diff_augment

POLICIES = [["colour"], ["translation"], ["cutout"], ["colour", "translation", "cutout"]]


def pictures(count=16, channels=3, size=32, seed=0) -> torch.Tensor:
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
def test_every_picture_is_changed_in_its_own_way_and_keeps_its_shape(name, channels):
    same = pictures(1, channels).expand(16, -1, -1, -1)
    torch.manual_seed(0)
    changed = CHANGES[name](same)
    assert changed.shape == same.shape
    assert torch.isfinite(changed).all()
    assert len(torch.unique(changed.flatten(1), dim=0)) > 8


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_random_state_gives_the_same_change(name):
    images = pictures()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(CHANGES[name](images))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", CHANGES)
def test_gradients_go_through(name):
    images = pictures().requires_grad_(True)
    torch.manual_seed(0)
    CHANGES[name](images).square().sum().backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).float().mean() > 0.9


def test_translation_moves_a_picture_by_at_most_an_eighth_and_cutout_blanks_a_quarter():
    point = torch.zeros(200, 1, 32, 32)
    point[:, :, 16, 16] = 1
    torch.manual_seed(0)
    places = diff_augment(point, ["translation"])[:, 0].nonzero()[:, 1:]
    assert len(places) == 200
    assert (places - 16).abs().max() == 4
    torch.manual_seed(0)
    blank = (diff_augment(torch.ones(200, 1, 32, 32), ["cutout"]) == 0).float().mean((1, 2, 3))
    assert blank.max() <= 0.25
    assert blank.mean() > 0.15


def test_ada_with_probability_0_changes_nothing_and_changes_more_with_more():
    images = pictures(64)
    torch.testing.assert_close(ada(images, 0.0), images, rtol=0, atol=0)
    changed = []
    for probability in (0.05, 0.3, 0.8):
        torch.manual_seed(0)
        different = (ada(images, probability) - images).abs().amax((1, 2, 3)) > 0.02
        changed.append(different.float().mean().item())
    assert changed[0] < changed[1] < changed[2]


def test_colour_changes_of_ada_keep_grey_pictures_grey():
    grey = pictures(16, 1).expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    changed = ada(grey, 0.9)
    torch.testing.assert_close(changed[:, 0], changed[:, 1], rtol=0, atol=1e-4)
    torch.testing.assert_close(changed[:, 0], changed[:, 2], rtol=0, atol=1e-4)


def test_the_probability_follows_the_sign_of_the_real_logits():
    augment = Augment(ADAOptions(kind="ada", target=0.6, ramp_images=1000, limit=0.5))
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


def test_what_does_not_adapt_stays_as_it_is():
    for options in (None, DiffAugmentOptions(kind="diffaugment")):
        augment = Augment(options)
        assert not augment.adapts
        augment.adapt(1.0, 10**9)
        assert augment.probability == 0.0
    images = pictures()
    assert Augment(None)(images) is images
