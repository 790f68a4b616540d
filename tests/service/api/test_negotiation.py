import pytest

from service.api.negotiation import OutputFormat, negotiate
from service.api.problems import Problem
from service.runtime.images.encoding import ImageFormat


@pytest.mark.parametrize(
    ("requested", "accept", "count", "expected"),
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
def test_format_field_takes_precedence_over_accept(requested, accept, count, expected):
    assert negotiate(requested, accept, count) == expected


def test_error_lists_available_formats():
    with pytest.raises(Problem, match="image/webp") as error:
        negotiate(None, "image/bmp, text/*", 1)
    assert error.value.status == 406
