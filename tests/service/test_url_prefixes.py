"""URLs below the prefixes that an operator allows, and URLs that only look like them."""

import pytest

from service.url_prefixes import InvalidURL, URLNotAllowed, assert_allowed, parse_prefixes

PREFIXES = (
    "s3://bucket/results",
    "gs://whole-bucket",
    "https://images.example.com/public/",
    "http://127.0.0.1:9000/a",
    "file:///srv/data",
)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/results",
        "s3://bucket/results/",
        "s3://bucket/results/a/b_c",
        "s3://bucket/results/100%25",
        "s3://bucket/results/größe..x",
        "gs://whole-bucket",
        "gs://whole-bucket/any/thing",
        "https://images.example.com/public/a.zip",
        "https://IMAGES.example.com:443/public/gr%C3%B6%C3%9Fe.zip",
        "http://127.0.0.1:9000/a/b.zip",
        "file:///srv/data/x",
    ],
)
def test_urls_below_a_prefix_are_allowed(url):
    assert_allowed(url, PREFIXES)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/results2",
        "s3://bucket/Results",
        "s3://bucket/other/results",
        "s3://bucket-evil/results",
        "s3://Bucket/results",
        "s3a://bucket/results",
        "gs://whole-bucket.evil/x",
        "https://images.example.com/publicity",
        "https://images.example.com.evil.org/public/a.zip",
        "https://images.example.com.:443/public/a.zip",
        "https://images.example.com:444/public/a.zip",
        "http://images.example.com/public/a.zip",
        "http://127.0.0.1/a/b.zip",
        "http://127.0.0.2:9000/a/b.zip",
        "file:///srv/database",
        "file://other/srv/data",
        "file:///etc/passwd",
        "memory://bucket/results",
    ],
)
def test_other_urls_are_not_allowed(url):
    with pytest.raises((URLNotAllowed, InvalidURL)):
        assert_allowed(url, PREFIXES)
    with pytest.raises((URLNotAllowed, InvalidURL)):
        assert_allowed(url, ())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/data/x",
        "bucket/results",
        "s3:/bucket/results",
        "s3:///results",
        "S3://bucket/results",
        " s3://bucket/results",
        "s3://bucket/results\n",
        "s3://bucket/results/..",
        "s3://bucket/results/../other",
        "s3://bucket/results/./x",
        "s3://bucket//results",
        "s3://bucket/results//x",
        "s3://bucket\\results",
        "s3://bucket/results?versionId=1",
        "s3://bucket/results#x",
        "s3://key:secret@bucket/results",
        "https://user:secret@images.example.com/public/a.zip",
        "https://images.example.com/public/%2e%2e/private/a.zip",
        "https://images.example.com/public/%252e%252e/private/a.zip",
        "https://images.example.com/public/..%2fprivate/a.zip",
        "https://images.example.com/public/%5c..%5cprivate",
        "https://images.example.com/public/a%00.zip",
        "https://images.example.com\u3002evil.org/public/a.zip",
        "https://images.example.com:99999999/public/a",
        "s3://bucket/results/*",
        "s3://bucket/results/[a-z]",
        "simplecache::s3://bucket/results",
        "s3://bucket/results::file:///etc",
        "zip://a.png::s3://bucket/results/a.zip",
        "http://127.0.0.1:9000/a/b::memory",
        "http://[::1]:9000/a/b",
        "s3://bucket/results/" + "x" * 1000,
    ],
)
def test_ambiguous_urls_are_invalid_and_not_repeated(url):
    with pytest.raises(InvalidURL) as error:
        assert_allowed(url, PREFIXES)
    assert "secret" not in str(error.value)


def test_prefixes_are_validated():
    assert parse_prefixes(PREFIXES) == PREFIXES
    for text in ("s3://", "https://", "s3:bucket", "*", "https://*/a", "s3://b/../c"):
        with pytest.raises(ValueError, match="is not a URL prefix"):
            parse_prefixes([text])
