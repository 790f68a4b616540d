from pathlib import Path

import numpy as np
import pytest
import torch

from training.latent.generator import LatentGenerator, NoLatentSpace, tensors
from training.latent.inversion.model import InversionError, open_generator

SHIPPED = Path(__file__).parents[3] / "models"


@pytest.mark.parametrize("name", ["painted", "painted-classes", "cut"])
def test_images_are_those_that_are_served(name: str, drawn_repository: Path) -> None:
    generator = open_generator(name, drawn_repository)
    latents, conditions = generator.draw(range(5))

    pixels = generator.pixels(latents, conditions)

    assert latents.shape == (5, *generator.shape)
    np.testing.assert_array_equal(pixels, generator.model.generate(range(5)))
    with torch.no_grad():
        images = generator(torch.from_numpy(latents), tensors(conditions))
    levels = ((images + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(levels - pixels).max() <= 1


def test_statistics_describe_the_latents(drawn_repository: Path) -> None:
    generator = open_generator("cut", drawn_repository)
    mean, deviation = generator.statistics()
    assert mean.shape == deviation.shape == (16,)
    assert np.abs(mean).max() < 0.05
    # A normal distribution that is truncated to two standard deviations.
    np.testing.assert_allclose(deviation, 0.88, atol=0.05)


def test_takes_a_transformable_model(tmp_path: Path) -> None:
    from tests.support.drawn_models import write_transformable

    write_transformable(tmp_path / "transformable" / "1")
    generator = open_generator("transformable", tmp_path)
    latents, conditions = generator.draw(range(2))
    images = generator(torch.from_numpy(latents), tensors(conditions))
    assert images.shape == (2, 3, 24, 24)


def test_refuses_an_image_to_image_model() -> None:
    with pytest.raises(NoLatentSpace, match="inpaint-flowers is an image-to-image model"):
        open_generator("inpaint-flowers", SHIPPED)


def test_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InversionError, match="not a model folder"):
        open_generator(str(tmp_path), tmp_path)


def test_is_a_module_without_parameters(drawn_repository: Path) -> None:
    generator = open_generator("painted", drawn_repository)
    assert isinstance(generator, LatentGenerator)
    assert not list(generator.parameters())
