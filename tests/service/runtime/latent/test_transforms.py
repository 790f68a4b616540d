import numpy as np
import pytest

from service.runtime.latent.transforms import as_transform, identity_transforms, motion_transform


def shown_at(transform, x, y):
    """The source position that is shown at (x, y)."""
    return (transform @ np.array([x, y, 1]))[:2]


def test_translation_right_samples_left():
    np.testing.assert_allclose(
        shown_at(motion_transform([0.25, 0.1], 0, 1), 0.25, 0.1), [0, 0], atol=1e-7
    )


def test_rotation_is_counterclockwise():
    # y goes down, so the top is negative.
    np.testing.assert_allclose(
        shown_at(motion_transform([0, 0], 90, 1), 0, -0.5), [0.5, 0], atol=1e-7
    )


def test_scale_keeps_center():
    twice = motion_transform([0, 0], 30, 2)
    np.testing.assert_allclose(shown_at(twice, 0, 0), [0, 0], atol=1e-7)
    assert np.linalg.norm(shown_at(twice, 0.5, 0)) == pytest.approx(0.25)


def test_rotates_before_translating():
    both = motion_transform([0.25, 0], 90, 1)
    np.testing.assert_allclose(shown_at(both, 0.25, 0), [0, 0], atol=1e-7)


def test_defaults_are_identity():
    np.testing.assert_array_equal(motion_transform([0, 0], 0, 1), identity_transforms(1)[0])


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.eye(2), "3 rows of 3"),
        ([[1, 0, 0], [0, float("nan"), 0], [0, 0, 1]], "finite"),
        ([[1, 0, 0], [0, 1e300, 0], [0, 0, 1]], "finite"),
        ([[1, 0, 0], [0, 1, 0], [0, 0.1, 1]], "last row"),
        ([[1, 0, 101], [0, 1, 0], [0, 0, 1]], "from -100 to 100"),
    ],
)
def test_rejects_invalid_transform(values, why):
    with pytest.raises(ValueError, match=why):
        as_transform(values)
