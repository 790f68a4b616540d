"""Directions without labels: SeFa and GANSpace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.model import Model
from training.latent.directions.errors import DirectionsError
from training.latent.directions.first_layers import activations, first_layers, matrices

Floats = NDArray[np.float32]
# The most values of activations, in all samples together, that are kept in memory.
_MAX_ACTIVATIONS = 2**25


@dataclass(frozen=True)
class Component:
    """A direction ``[dimension]`` of any length, by its number, from 1, in the order of importance.

    `share` is its share of what all components explain.
    """

    number: int
    vector: NDArray[np.float64]
    share: float


def semantic_factors(model: Model, layers: Sequence[int], count: int) -> list[Component]:
    """Return the directions that change the first layers most (SeFa, arXiv:2007.06600, eq. 6).

    They are the eigenvectors of AᵀA with the largest eigenvalues. A are the weights of all first
    linear layers that take w of the style `layers`, or z of a model without styles. Raises
    DirectionsError.
    """
    found = matrices(first_layers(model), model, layers)
    products = np.zeros((found[0].shape[1],) * 2)
    for matrix in found:
        products += matrix.T @ matrix
    return _eigenvectors(products, count)


def principal_components(latents: Floats, count: int) -> list[Component]:
    """Return the principal components of `latents` ``[N, dimension]`` (GANSpace, arXiv:2004.02546).

    This is the method for models with styles, on samples of w (section 2.2).
    """
    values = latents.astype(np.float64)
    values -= values.mean(axis=0)
    return _eigenvectors(values.T @ values, count)


def activation_components(model: Model, latents: Floats, count: int) -> list[Component]:
    """Return the directions of z along the principal components of the first activations.

    GANSpace (arXiv:2004.02546, section 2.2) for models without w: the coordinates x of the samples'
    activations along the components are regressed to z, by minimizing Σ ‖U xⱼ - zⱼ‖² (eq. 3). The
    activations are the first values that are not linear in z. `latents` are samples ``[N, z_dim]``;
    fewer are used if the activations would need too much memory. Raises DirectionsError.
    """
    layers = first_layers(model)
    width = activations(layers, model, latents[:1]).shape[1]
    latents = latents[: max(_MAX_ACTIVATIONS // width, 2 * count)]
    values = activations(layers, model, latents)
    values = values - values.mean(axis=0)
    # The eigenvectors of the smaller of the two products of the matrix with itself.
    if len(values) <= width:
        sides = _eigenvectors((values @ values.T).astype(np.float64), count)
        coordinates = np.stack([side.vector for side in sides], axis=1)
    else:
        sides = _eigenvectors((values.T @ values).astype(np.float64), count)
        coordinates = values @ np.stack([side.vector for side in sides], axis=1)
    z = latents.astype(np.float64) - latents.mean(axis=0)
    directions, *_ = np.linalg.lstsq(coordinates, z, rcond=None)
    if not (np.linalg.norm(directions, axis=1) > 0).all():
        raise DirectionsError("the first activations do not depend on z")
    return [
        Component(side.number, _with_sign(vector), side.share)
        for side, vector in zip(sides, directions, strict=True)
    ]


def _eigenvectors(matrix: NDArray[np.float64], count: int) -> list[Component]:
    """Return the eigenvectors of a symmetric matrix with the largest eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    total = max(float(values.clip(0).sum()), 1e-300)
    order = np.argsort(values)[::-1][:count]
    return [
        Component(i + 1, _with_sign(vectors[:, at]), float(values[at]) / total)
        for i, at in enumerate(order)
    ]


def _with_sign(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a vector or its negative: the one whose largest value is positive.

    The sign of an eigenvector is arbitrary, and would depend on the version of a library.
    """
    largest = vector[np.argmax(np.abs(vector))]
    return vector if largest > 0 else -vector
