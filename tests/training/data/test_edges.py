"""Line drawings made from pictures."""

import torch

from training.data.edges import canny_edges


def drawn(picture, sigma=1.0, threshold=10.0):
    return canny_edges(picture[None], torch.tensor([sigma]), torch.tensor([threshold]))[0, 0]


def square(side=32, inner=12):
    picture = torch.full((3, side, side), 30, dtype=torch.uint8)
    start = (side - inner) // 2
    picture[:, start : start + inner, start : start + inner] = 220
    return picture, start, start + inner


def test_the_outline_of_a_square_is_a_closed_thin_line():
    picture, first, last = square()
    lines = drawn(picture) == 0
    # On every row through the square there are its two sides, each a pixel wide, where they are.
    for row in range(first + 3, last - 3):
        found = torch.nonzero(lines[row]).flatten().tolist()
        assert len(found) == 2
        assert abs(found[0] - first) <= 1
        assert abs(found[1] - last) <= 1
    assert not lines[first + 4 : last - 4, first + 4 : last - 4].any()
    assert not lines[:2].any()


def test_what_differs_in_one_channel_alone_is_seen():
    picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
    picture[2, :, 8:] = 200
    assert (drawn(picture)[8] == 0).sum() == 1


def test_nothing_is_drawn_of_nothing_and_less_of_a_higher_threshold():
    assert (drawn(torch.full((3, 16, 16), 90, dtype=torch.uint8)) == 255).all()
    noise = torch.randint(0, 256, (3, 48, 48), generator=torch.Generator().manual_seed(0))
    counts = [(drawn(noise.byte(), threshold=t) == 0).sum() for t in (5.0, 15.0, 40.0)]
    assert counts[0] > counts[1] > counts[2]


def test_each_picture_of_a_batch_is_drawn_by_its_own_values():
    # Of noise, in which no two neighbours are equally steep.
    rng = torch.Generator().manual_seed(1)
    picture, noise = torch.randint(0, 256, (2, 3, 32, 32), generator=rng).byte()
    together = canny_edges(
        torch.stack([picture, noise]), torch.tensor([0.8, 1.4]), torch.tensor([9.0, 20.0])
    )
    assert together.shape == (2, 1, 32, 32)
    assert set(together.unique().tolist()) <= {0, 255}
    torch.testing.assert_close(together[0, 0], drawn(picture, 0.8, 9.0))
    torch.testing.assert_close(together[1, 0], drawn(noise, 1.4, 20.0))
