"""The models that a visitor of the documentation sees first, animated."""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "images"
# Different kinds of images, each by the included model that makes the best ones.
FEATURED = ("biggan-flowers", "dcgan-fashion", "stylegan2-flowers-64")


def animation(model: str) -> Path:
    """Return the file with a walk through the latent space of a featured model."""
    return FOLDER / f"walk-{model}.webp"
