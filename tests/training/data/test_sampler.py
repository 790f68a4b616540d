import numpy as np
import torch

from training.data.images import ImageData
from training.data.sampler import ShuffledBatches


def numbered_images(count=10, size=4) -> ImageData:
    """Images filled with their own number, except for a bright left column."""
    pixels = np.zeros((count, size, size, 1), np.uint8)
    pixels[:] = np.arange(count).reshape(-1, 1, 1, 1)
    pixels[:, :, 0] = 200
    return ImageData(pixels, np.arange(count), ())


def make_batches(data=None, batch=4, resolution=4, flip=False, seed=0) -> ShuffledBatches:
    return ShuffledBatches(data or numbered_images(), batch, resolution, flip=flip, seed=seed)


def test_epochs_are_different_permutations():
    batches = make_batches(batch=3)
    indices = np.concatenate([batches.indices(i) for i in range(20)])
    epochs = indices.reshape(6, 10)
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batch_depends_on_number_and_seed_only():
    first, second = make_batches(flip=True), make_batches(flip=True)
    expected = [first[i][0] for i in range(9)]
    for i in (8, 0, 5, 5):
        torch.testing.assert_close(second[i][0], expected[i], rtol=0, atol=0)
    assert not torch.equal(make_batches(flip=True, seed=1)[0][0], expected[0])


def test_images_have_their_labels():
    pixels, labels = make_batches()[3]
    assert pixels.shape == (4, 1, 4, 4)
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(pixels[:, 0, 0, -1].long(), labels)


def test_flips_half_of_images():
    batches = make_batches(numbered_images(100), batch=100, flip=True)
    mirrored = torch.cat([batches[i][0][:, 0, 0, -1] == 200 for i in range(10)]).float().mean()
    assert 0.4 < mirrored < 0.6
    assert not (make_batches(numbered_images(100), batch=100)[0][0][:, 0, 0, -1] == 200).any()


def test_random_crops_vary_in_position():
    data = numbered_images(50, size=6)
    crops = make_batches(data, batch=50, resolution=4)[0][0]
    assert crops.shape == (50, 1, 4, 4)
    with_left_column = (crops[:, 0, 0, 0] == 200).float().mean()
    assert 0.1 < with_left_column < 0.6


def test_batch_larger_than_dataset_spans_epochs():
    counts = np.bincount(make_batches(batch=25).indices(0), minlength=10)
    assert counts.sum() == 25
    assert counts.min() >= 2
