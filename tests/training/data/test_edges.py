"""Line drawings from images."""

import torch

from training.data.edges import canny_edges


def draw(image, sigma=1.0, threshold=10.0):
    return canny_edges(image[None], torch.tensor([sigma]), torch.tensor([threshold]))[0, 0]


def square(side=32, inner=12):
    image = torch.full((3, side, side), 30, dtype=torch.uint8)
    start = (side - inner) // 2
    image[:, start : start + inner, start : start + inner] = 220
    return image, start, start + inner


def test_square_has_closed_one_pixel_outline():
    image, first, last = square()
    lines = draw(image) == 0
    # Each row through the square has exactly its two sides, each one pixel wide.
    for row in range(first + 3, last - 3):
        columns = torch.nonzero(lines[row]).flatten().tolist()
        assert len(columns) == 2
        assert abs(columns[0] - first) <= 1
        assert abs(columns[1] - last) <= 1
    assert not lines[first + 4 : last - 4, first + 4 : last - 4].any()
    assert not lines[:2].any()


def test_detects_edge_in_single_channel():
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    image[2, :, 8:] = 200
    assert (draw(image)[8] == 0).sum() == 1


def test_higher_threshold_draws_fewer_edges():
    assert (draw(torch.full((3, 16, 16), 90, dtype=torch.uint8)) == 255).all()
    noise = torch.randint(0, 256, (3, 48, 48), generator=torch.Generator().manual_seed(0))
    counts = [(draw(noise.byte(), threshold=t) == 0).sum() for t in (5.0, 15.0, 40.0)]
    assert counts[0] > counts[1] > counts[2]


def test_parameters_apply_per_image():
    # Noise, in which no two neighbors have equal gradients.
    rng = torch.Generator().manual_seed(1)
    image, noise = torch.randint(0, 256, (2, 3, 32, 32), generator=rng).byte()
    together = canny_edges(
        torch.stack([image, noise]), torch.tensor([0.8, 1.4]), torch.tensor([9.0, 20.0])
    )
    assert together.shape == (2, 1, 32, 32)
    assert set(together.unique().tolist()) <= {0, 255}
    torch.testing.assert_close(together[0, 0], draw(image, 0.8, 9.0))
    torch.testing.assert_close(together[1, 0], draw(noise, 1.4, 20.0))
