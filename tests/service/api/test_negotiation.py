import pytest

from service.api.negotiation import OutputFormat, negotiate
from service.api.problems import Problem
from service.runtime.images.encoding import ImageFormat


@pytest.mark.parametrize(
    ("wanted", "accept", "count", "form"),
    [
        (None, None, 1, OutputFormat("json")),
        ("png", "application/json", 1, OutputFormat("image", ImageFormat.PNG)),
        (None, "image/jpeg", 3, OutputFormat("json", ImageFormat.JPEG)),
        (None, "text/html, image/webp", 1, OutputFormat("image", ImageFormat.WEBP)),
        (None, "image/png;q=0.2, application/x-npy;q=0.8", 1, OutputFormat("npy")),
        (None, "IMAGE/PNG", 1, OutputFormat("image", ImageFormat.PNG)),
        (None, "application/*", 1, OutputFormat("json")),
        (None, "*/*, image/png", 1, OutputFormat("image", ImageFormat.PNG)),
        (None, "application/json;q=0, */*", 1, OutputFormat("image", ImageFormat.PNG)),
        (None, "image/png;q=nan, application/zip;q=0.1", 1, OutputFormat("zip")),
    ],
)
def test_the_format_goes_first_and_then_the_best_of_accept(wanted, accept, count, form):
    assert negotiate(wanted, accept, count) == form


def test_what_cannot_be_had_is_refused_with_what_can():
    with pytest.raises(Problem, match="image/webp") as error:
        negotiate(None, "image/bmp, text/*", 1)
    assert error.value.status == 406
