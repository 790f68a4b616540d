"""A page of another origin that uses the service with `fetch`, in Chromium."""

import io

import pytest
from PIL import Image
from playwright.sync_api import Page

from service.api_keys import add_key
from tests.support.browser import TIMEOUT_MS
from tests.support.file_servers import FileServer, running
from tests.support.image_to_image_models import write_translators
from tests.support.latent_models import write_latent_models
from tests.support.servers import Server, serving

# Each returns what the page could read of a response.
_READ_JSON = "async ([url, options]) => (await fetch(url, options)).json()"
_READ_HEADERS = """async ([url, options]) => {
  const response = await fetch(url, options);
  return [response.status, Object.fromEntries(response.headers)];
}"""
_READ_STREAM = """async ([url, options]) => {
  const reader = (await fetch(url, options)).body.getReader();
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    size += part.value.length;
  }
  return size;
}"""
_UPLOAD = """async ([url, options, bytes]) => {
  const body = new FormData();
  body.append('model', 'larger');
  body.append('format', 'png');
  body.append('image', new Blob([new Uint8Array(bytes)], { type: 'image/png' }), 'a.png');
  const response = await fetch(url, { ...options, method: 'POST', body });
  const image = await createImageBitmap(await response.blob());
  return [image.width, image.height, response.headers.get('x-ganymede-model')];
}"""
# Shows the image first, so that the browser has a response to a request without an origin.
_SHOW_THEN_FETCH = """async (url) => {
  const image = new Image();
  image.src = url;
  await image.decode();
  const response = await fetch(url);
  return [image.naturalWidth, (await response.blob()).type];
}"""
_FAILURE = "async ([url, options]) => fetch(url, options).then(() => 'read', (error) => `${error}`)"


@pytest.fixture(scope="module")
def site():
    """A web site that is not the service."""
    with running(FileServer({"/": b"<!doctype html>"}, types={"/": "text/html"})) as site:
        yield site


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_latent_models(models)
    write_translators(models)
    return models


@pytest.fixture(scope="module")
def allowing(browser, site, models):
    """A server whose responses the site may read."""
    with serving(models, "--cors-origin", site.url) as server:
        yield server


@pytest.fixture
def page(browser, site) -> Page:
    """A page of the site."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(site.url)
    yield page
    context.close()


def generate(server: Server, **fields) -> list:
    """The arguments of `fetch` for a request that needs a preflight."""
    headers = {"content-type": "application/json", "x-request-id": "from-a-page"}
    body = '{"model": "movable", "seed": 3, "format": "json"}'
    options = {"method": "POST", "headers": headers, "body": body}
    return [f"{server.url}/v1/generate", options | fields]


def test_page_reads_json_and_headers(page, allowing):
    assert page.evaluate(_READ_JSON, generate(allowing))["images"][0]["seed"] == 3
    status, headers = page.evaluate(_READ_HEADERS, generate(allowing))
    assert status == 200
    assert headers["x-ganymede-seed"] == "3"
    assert headers["x-request-id"] == "from-a-page"
    assert page.evaluate(_READ_STREAM, generate(allowing)) > 100


def test_page_reads_image_and_its_etag(page, allowing):
    address = f"{allowing.url}/v1/models/movable/images/5.png"
    _, headers = page.evaluate(_READ_HEADERS, [address, {"headers": {"x-deadline-ms": "9000"}}])
    assert headers["content-type"] == "image/png"
    etag = headers["etag"]
    again = {"headers": {"if-none-match": etag}, "cache": "no-store"}
    status, headers = page.evaluate(_READ_HEADERS, [address, again])
    assert status == 304
    assert headers["etag"] == etag


def test_page_fetches_an_image_that_it_has_shown(page, allowing):
    address = f"{allowing.url}/v1/models/movable@1/images/6.png"
    width, media_type = page.evaluate(_SHOW_THEN_FETCH, address)
    assert width > 0
    assert media_type == "image/png"


def test_page_uploads_an_image_in_a_form(page, allowing):
    file = io.BytesIO()
    Image.new("RGB", (12, 10), "teal").save(file, "PNG")
    url = f"{allowing.url}/v1/upscale"
    options = {"headers": {"authorization": "Bearer unused"}}
    width, height, model = page.evaluate(_UPLOAD, [url, options, list(file.getvalue())])
    assert (width, height) == (24, 20)
    assert model == "larger@1"


def test_page_reads_errors(page, allowing):
    problem = page.evaluate(_READ_JSON, generate(allowing, body='{"model": "none"}'))
    assert problem["type"] == "urn:ganymede:problem:model-not-found"
    error = page.evaluate(
        _READ_JSON,
        [f"{allowing.url}/v1/images/generations", {"method": "POST", "body": "{}"}],
    )
    assert error["error"]["message"]


def test_page_sends_its_key(page, browser, site, models, tmp_path):
    key = add_key(tmp_path / "keys.json", "page")
    flags = ("--keys", str(tmp_path / "keys.json"), "--cors-origin", site.url)
    with serving(models, *flags) as server:
        url = f"{server.url}/v1/models"
        status, headers = page.evaluate(_READ_HEADERS, [url, {}])
        assert status == 401
        assert "www-authenticate" in headers
        with_key = {"headers": {"authorization": f"Bearer {key}"}}
        assert page.evaluate(_READ_HEADERS, [url, with_key])[0] == 200
        with_cookies = with_key | {"credentials": "include"}
        assert "Failed to fetch" in page.evaluate(_FAILURE, [url, with_cookies])


def test_browser_blocks_pages_of_origins_that_are_not_listed(
    page, browser, allowing, latent_server
):
    url = f"{latent_server.url}/v1/models"
    # The service responds, and the browser does not give the response to the page.
    assert "Failed to fetch" in page.evaluate(_FAILURE, [url, {}])
    assert "Failed to fetch" in page.evaluate(_FAILURE, generate(latent_server))
    with running(FileServer({"/": b"<!doctype html>"}, types={"/": "text/html"})) as other:
        page.goto(other.url)
        assert "Failed to fetch" in page.evaluate(_FAILURE, [f"{allowing.url}/v1/models", {}])
        assert "Failed to fetch" in page.evaluate(_FAILURE, generate(allowing))
