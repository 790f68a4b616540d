import pytest

from service.origins import parse_origins


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.com:443", "https://app.example.com"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("https://localhost:80", "https://localhost:80"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://[::1]", "http://[::1]"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("*", "*"),
    ],
)
def test_origin_is_written_as_browsers_write_it(text, origin):
    assert parse_origins((text, text)) == (origin,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("app.example.com", "has no scheme"),
        ("localhost:3000", "has no scheme"),
        ("//app.example.com", "has no scheme"),
        ("https://app.example.com/", "has a path"),
        ("https://app.example.com/editor", "has a path"),
        ("https://app.example.com?x", "has a path"),
        ("https://*.example.com", "is a pattern"),
        ("https://", "has no valid host"),
        ("https://:443", "has no valid host"),
        ("https://user@app.example.com", "has no valid host"),
        ("https://app.example.com:port", "is not an origin"),
        ("https://app.example.com:99999", "is not an origin"),
        ("https://app example.com", "has no valid host"),
        ("https://bücher.example", "xn--"),
        ("https://[::1", "is not an origin"),
        ("null", "sandboxed"),
    ],
)
def test_rejects_what_is_not_an_origin(text, reason):
    with pytest.raises(ValueError, match=reason) as error:
        parse_origins((text,))
    assert len(str(error.value).splitlines()) == 1


def test_rejects_any_origin_beside_others():
    with pytest.raises(ValueError, match=r"without https://a\.example"):
        parse_origins(("https://a.example", "*"))
