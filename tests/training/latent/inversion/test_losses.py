import torch

from training.latent.inversion.losses import for_features, pixel_loss


def test_a_value_beyond_white_equals_white() -> None:
    target = torch.tensor([1.0, -1.0, 0.5]).reshape(3, 1, 1, 1)
    images = torch.tensor([1.4, -1.2, 1.5]).reshape(3, 1, 1, 1).requires_grad_()
    loss = pixel_loss(images, target)
    assert loss.tolist() == [0.0, 0.0, 1.0]
    (gradient,) = torch.autograd.grad(loss.sum(), images)
    assert gradient.flatten().tolist() == [0.0, 0.0, 2.0]


def test_features_are_of_clipped_color_images_that_are_not_too_large() -> None:
    images = torch.full((2, 4, 256, 256), 3.0)
    prepared = for_features(images)
    assert prepared.shape == (2, 3, 64, 64)
    assert prepared.max() == 1
