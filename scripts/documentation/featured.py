"""The models that a visitor of the documentation sees first, animated."""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "images"
# The included models whose images are the best to look at, of three kinds of networks.
FEATURED = ("biggan-flowers", "dcgan-fashion", "stylegan2-flowers-64")


def animation(model: str) -> Path:
    """Return the file with a walk through the latent space of a featured model."""
    return FOLDER / f"walk-{model}.webp"
