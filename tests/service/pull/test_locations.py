"""Addresses: their parts, their pins, and errors for incomplete ones."""

import pytest

from service.pull.locations import Location, LocationError, is_location
from service.runtime.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHA256 = "a" * 64


def test_separates_address_and_checksum():
    location = Location.parse(f"https://example.org/a%20b.pth?token=1#sha256={SHA256}")
    assert location.address == "https://example.org/a%20b.pth?token=1"
    assert str(location.checksum) == f"sha256:{SHA256}"
    assert location.filename == "a-b.pth"


def test_parts_of_a_hub_address():
    path = Location.parse(f"hf://owner/name@{COMMIT}/folder/g.onnx").hub
    assert (path.repo, path.revision, path.path) == ("owner/name", COMMIT, "folder/g.onnx")
    assert path.is_pinned
    branch = Location.parse("hf://owner/name/g.onnx").hub
    assert (branch.revision, branch.is_pinned) == ("main", False)


def test_parts_of_a_package_address():
    package = Location.parse("pypi:some-models==1.2.0/some_models/g.pth").package
    assert (package.requirement, package.member) == ("some-models==1.2.0", "some_models/g.pth")


def test_sibling_has_another_suffix():
    assert Location.parse("https://a.org/x/net.param?k=1").sibling(".bin").address == (
        "https://a.org/x/net.bin?k=1"
    )
    assert Location.parse("pypi:a==1/b/net.param").sibling(".bin").address == "pypi:a==1/b/net.bin"


@pytest.mark.parametrize(
    "text",
    [
        "ftp://example.org/a",
        "models/a",
        "https://example.org/",
        "https:///g.pth",
        "https://a..b/g.pth",
        "https://[::1/g.pth",
        "https://example.org:99999/g.pth",
        "pypi:some-models/g.pth",
        "pypi:--index-url==1/x",
        "hf://owner/",
        f"https://example.org/a#{SHA256}",
        "https://example.org/a#sha256=12",
    ],
)
def test_refuses_incomplete_addresses(text):
    with pytest.raises(UserError) as raised:
        Location.parse(text)
    assert "\n" not in str(raised.value)


def test_names_and_paths_are_no_addresses():
    assert not any(map(is_location, ["realesrgan-x4", "models/a.zip", "/a/b", "C:\\a", "s3"]))
    assert is_location("s3://bucket/a")


def test_whole_bucket_has_the_name_of_the_bucket():
    assert Location.parse("s3://bucket").filename == "bucket"


def test_an_address_without_a_file_is_an_error():
    with pytest.raises(LocationError, match="names no file"):
        Location.parse("https://example.org")
