"""Reads HTTP responses of the service."""

import io

import httpx
import numpy as np
from PIL import Image


def decode_image(content: bytes) -> np.ndarray:
    """Decode an image file to ``[H, W, C]``."""
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(content))))


def npy_pixels(response: httpx.Response) -> np.ndarray:
    """Return the array of a successful response in NPY format."""
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


def assert_problem(response: httpx.Response, status: int, field: str | None = None) -> None:
    """Check that a response is a problem document (RFC 9457), which names `field` if given."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:ganymede:problem:")
    assert problem["detail"]
    assert "Traceback" not in response.text
    if field:
        assert field in [error["field"] for error in problem["errors"]]
