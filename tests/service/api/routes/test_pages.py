"""The playground and the API documentation: local files, security headers, caching."""

import contextlib
import gzip
import http.client
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from service import playground

PLAYGROUND = Path(playground.__file__).parent
MAX_BYTES = 220_000
PAGES = ("/", "/docs")
# In their order in the bundle.
STYLES = ("tokens.css", "shell.css", "images.css", "tools.css", "image_tools.css", "latent.css")
# Module imports and CSS references, in which minified libraries may contain anything.
_IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*["']([^"']+)["']|new URL\(["']([^"']+)["']""")
_CSS_URL = re.compile(r"""url\(\s*["']?([^"')]+)["']?\s*\)|@import\s+["']([^"']+)["']""")


class References(HTMLParser):
    """The addresses in a document, and its inline scripts, styles and event handlers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.files: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.inline += [name for name in attributes if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in attributes):
            self.inline.append(tag)
        for name in ("src", "href"):
            if name in attributes and tag != "a":
                self.files.append(attributes[name])


@pytest.mark.parametrize("path", [*PAGES, "/playground/bundle.js", "/docs/swagger-ui-bundle.js"])
def test_policy_allows_scripts_of_this_server_only(client, path):
    response = client.get(path)
    assert response.status_code == 200
    policy = dict(
        part.split(" ", 1) for part in response.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    for directive in ("object-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[directive] == "'none'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("page", PAGES)
def test_everything_that_a_page_refers_to_is_served_from_here(client, page):
    response = client.get(page)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    document = References(response.text)
    assert document.inline == []
    assert any(name.endswith(".js") for name in document.files)
    waiting = [urljoin(page, name) for name in document.files]
    seen = set()
    while waiting:
        path = waiting.pop()
        if path in seen or path.startswith("data:"):
            continue
        seen.add(path)
        assert not urlsplit(path).netloc, path
        response = client.get(path)
        assert response.status_code == 200, path
        if path.endswith(".css"):
            waiting += _resolve(path, _CSS_URL, response.text)
        elif path.startswith("/playground/") and path.endswith(".js"):
            waiting += _resolve(path, _IMPORT, response.text)
    assert len(seen) >= len(document.files)


def _resolve(path: str, pattern: re.Pattern[str], text: str) -> list[str]:
    return [urljoin(path, first or second) for first, second in pattern.findall(text)]


def test_playground_consists_of_few_small_files(client):
    response = client.get("/")
    contents = {"/": response.content}
    for name in References(response.text).files:
        response = client.get(f"/{name}")
        assert response.status_code == 200, name
        suffix = name.rpartition(".")[2]
        types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert response.headers["content-type"].partition(";")[0] == types[suffix], name
        contents[name] = response.content
    assert set(contents) == {
        "/",
        "playground/icon.svg",
        "playground/bundle.css",
        "playground/core/theme.js",
        "playground/bundle.js",
    }
    sizes = {name: len(content) for name, content in contents.items()}
    assert sum(sizes.values()) <= MAX_BYTES, sizes


def test_bundles_contain_every_module_and_style_sheet(client):
    script = client.get("/playground/bundle.js").text
    for path in PLAYGROUND.rglob("*.js"):
        for name in re.findall(r"^export const (\w+)", path.read_text(), re.MULTILINE):
            assert re.search(rf"^const {name} = ", script, re.MULTILINE), (path, name)
    style = client.get("/playground/bundle.css").text
    first_rule = re.compile(r"^[^/\n]*\{", re.MULTILINE)
    positions = [
        style.index(first_rule.search((PLAYGROUND / "styles" / name).read_text())[0])
        for name in (
            "tokens.css",
            "shell.css",
            "images.css",
            "tools.css",
            "image_tools.css",
            "latent.css",
        )
    ]
    assert positions == sorted(positions)
    assert len(positions) == len(list((PLAYGROUND / "styles").iterdir()))


@pytest.mark.parametrize("path", [*PAGES, "/playground/bundle.js", "/docs/swagger-ui.css"])
def test_unchanged_files_are_not_sent_again(client, path):
    response = client.get(path)
    assert response.headers["cache-control"] == "no-cache"
    etag = response.headers["etag"]
    for header in (etag, f'W/{etag}, "other"', "*"):
        again = client.get(path, headers={"if-none-match": header})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert "content-security-policy" in again.headers
    assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == response.headers["content-length"]


def test_compresses_text_for_clients_that_accept_it(client):
    path = "/docs/swagger-ui-bundle.js"
    plain = client.get(path, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with client.stream("GET", path, headers={"accept-encoding": "br, gzip"}) as response:
        assert response.headers["content-encoding"] == "gzip"
        sent = b"".join(response.iter_raw())
    assert gzip.decompress(sent) == plain.content
    assert response.headers["etag"] != plain.headers["etag"]
    assert response.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    image = client.get("/docs/favicon-32x32.png", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in image.headers


@pytest.mark.parametrize(
    "path",
    [
        "/playground/__init__.py",
        "/playground/README.md",
        "/playground/index.html",
        "/playground/bundling.py",
        "/playground/main.js",
        "/playground/core/dom.js",
        "/playground/styles/tokens.css",
        "/playground/nothing.js",
        "/playground/..%2fsettings.py",
        "/playground/../docs/initialize.js",
        "/playground/%2e%2e/api/docs/initialize.js",
        "/playground/core/../main.js",
        "/playground//etc/passwd",
        "/playground/%2fetc%2fpasswd",
        "/playground/styles",
        "/playground/main.js%00.js",
        "/docs/../playground/main.js",
        "/docs/index.html",
        "/docs/__init__.py",
    ],
)
def test_serves_no_other_files(drawn_server, path):
    # Unlike httpx, it sends the path as it is.
    connection = http.client.HTTPConnection(drawn_server.url.removeprefix("http://"))
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 404
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "target"), [("/docs/", "/docs"), ("/redoc", "/docs"), ("/playground/", "/")]
)
def test_other_addresses_of_the_pages_redirect(client, path, target):
    response = client.get(path)
    assert response.is_redirect
    assert urlsplit(str(response.next_request.url)).path == target


@pytest.mark.parametrize("path", PAGES)
def test_pages_accept_no_other_methods(client, path):
    response = client.post(path)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"


def test_pages_are_not_in_the_schema(client):
    paths = client.get("/openapi.json").json()["paths"]
    routes = ("/v1", "/v2", "/metrics", "/sdapi")
    assert not [path for path in paths if not path.startswith(routes)]
