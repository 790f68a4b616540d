import numpy as np
import torch

from training.data.images import ImageData
from training.data.sampler import ShuffledBatches


def numbered(count=10, size=4) -> ImageData:
    """Pictures whose every pixel is their number, but for a bright left column."""
    pixels = np.zeros((count, size, size, 1), np.uint8)
    pixels[:] = np.arange(count).reshape(-1, 1, 1, 1)
    pixels[:, :, 0] = 200
    return ImageData(pixels, np.arange(count), ())


def make(pictures=None, batch=4, resolution=4, flip=False, seed=0) -> ShuffledBatches:
    return ShuffledBatches(pictures or numbered(), batch, resolution, flip=flip, seed=seed)


def test_every_epoch_shows_every_picture_once_in_another_order():
    batches = make(batch=3)
    seen = np.concatenate([batches.indices(i) for i in range(20)])
    epochs = seen.reshape(6, 10)
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    one, other = make(flip=True), make(flip=True)
    expected = [one[i][0] for i in range(9)]
    for i in (8, 0, 5, 5):
        torch.testing.assert_close(other[i][0], expected[i], rtol=0, atol=0)
    assert not torch.equal(make(flip=True, seed=1)[0][0], expected[0])


def test_pictures_come_with_their_labels():
    pixels, labels = make()[3]
    assert pixels.shape == (4, 1, 4, 4)
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(pixels[:, 0, 0, -1].long(), labels)


def test_half_of_the_pictures_are_mirrored():
    batches = make(numbered(100), batch=100, flip=True)
    mirrored = torch.cat([batches[i][0][:, 0, 0, -1] == 200 for i in range(10)]).float().mean()
    assert 0.4 < mirrored < 0.6
    assert not (make(numbered(100), batch=100)[0][0][:, 0, 0, -1] == 200).any()


def test_a_random_crop_has_the_resolution_and_moves_about():
    pictures = numbered(50, size=6)
    crops = make(pictures, batch=50, resolution=4)[0][0]
    assert crops.shape == (50, 1, 4, 4)
    with_left_column = (crops[:, 0, 0, 0] == 200).float().mean()
    assert 0.1 < with_left_column < 0.6


def test_a_batch_larger_than_the_set_takes_from_several_epochs():
    counts = np.bincount(make(batch=25).indices(0), minlength=10)
    assert counts.sum() == 25
    assert counts.min() >= 2
