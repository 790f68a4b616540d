"""Images to latents: an image that is dropped is inverted, and its latent edited and combined."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.support.browser import (
    DESKTOP,
    PHONE,
    accessibility_violations,
    image_pixels,
    served_pixels,
    set_slider,
)
from tests.support.drawn_models import SIZE

RECONSTRUCTION = ".tool-view img"


def payload(pixels: np.ndarray, name: str = "photo.png") -> FilePayload:
    """A PNG file with `pixels`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return FilePayload(name=name, mimeType="image/png", buffer=file.getvalue())


def sample(latent_server, seed: int, model: str = "movable", **fields) -> np.ndarray:
    return served_pixels(latent_server, "/v1/generate", {"model": model, "seed": seed, **fields})[0]


@pytest.fixture
def invert(open_page, latent_server):
    """Open the panel and choose an image. Returns the page with the reconstruction."""

    def invert(file: FilePayload, model: str = "movable", **options) -> Page:
        page = open_page(f"/#model={model}&panel=invert", of=latent_server, **options)
        page.locator("input[type=file]").set_input_files(file)
        expect(status(page)).to_contain_text("pixels")
        return page

    return invert


def status(page: Page):
    return page.get_by_role("region", name="Reconstruction").get_by_role("status")


def latent(latent_server, file: FilePayload, model: str = "movable") -> dict:
    """What the service finds for an image."""
    with latent_server.client() as client:
        image = base64.b64encode(file["buffer"]).decode()
        body = {"model": model, "image": image, "format": "json"}
        return client.post("/v1/invert", json=body).raise_for_status().json()["images"][0]


def test_image_is_inverted_and_its_latent_edited(invert, latent_server):
    file = payload(sample(latent_server, 7))
    page = invert(file)
    found = latent(latent_server, file)
    expect(status(page)).to_contain_text(f"PSNR {found['inversion']['psnr']:.1f} dB")
    expected = served_pixels(latent_server, "/v1/generate", {"model": "movable", "w": [found["w"]]})
    assert (image_pixels(page, RECONSTRUCTION) == expected[0]).all()

    page.get_by_role("button", name="Edit this").click()
    expect(page.get_by_role("slider", name="turn")).to_be_disabled()
    set_slider(page, "bright", 2)
    edited = page.get_by_role(
        "button", name=re.compile(r"^movable, an inverted image · bright \+2$")
    )
    expect(edited).to_be_visible()
    body = {"model": "movable", "w": [found["w"]], "directions": {"bright": 2}}
    expected = served_pixels(latent_server, "/v1/edit", body)[0]
    assert (image_pixels(page, ".edit-image .pair-tile img") == expected).all()
    # What is kept holds the latent, so it survives a reload.
    page.locator("#panel").get_by_role("button", name="Keep").click()
    page.reload()
    assert (image_pixels(page, "#tray .tile-image img") == expected).all()


def test_other_sizes_and_colors_are_fitted_and_the_page_says_so(invert):
    pixels = np.full((40, 90, 4), 120, np.uint8)
    page = invert(payload(pixels))
    expect(status(page)).to_contain_text(
        "only the middle, 40 × 40 pixels, was used; "
        f"it was resized from 40 × 40 to {SIZE} × {SIZE}; "
        "a white background replaced its transparency"
    )


def test_figures_of_the_encoder_are_shown(invert, latent_server):
    page = invert(payload(sample(latent_server, 1)))
    expect(page.locator("#panel")).to_contain_text(
        "PSNR of 8 images (own samples): 40 dB; the mean image has 10 dB, "
        "the nearest of 100 samples 12 dB."
    )


def test_every_class_is_tried_or_one_is_chosen(invert, latent_server):
    file = payload(sample(latent_server, 7, "movable-classes", **{"class": "dog"}))
    page = invert(file, "movable-classes")
    expect(status(page)).to_contain_text("dog was the best of 3 classes")
    page.get_by_label("Class of the image").select_option("cat")
    expect(status(page)).to_contain_text("pixels")
    expect(status(page)).not_to_contain_text("best of")
    page.locator("summary", has_text="Make it again").click()
    expect(page.locator(".tool-code pre").first).to_contain_text("-F 'class=cat'")
    expect(page.locator(".tool-code pre").last).to_contain_text(
        'client.invert("movable-classes@1", "photo.png", class_="cat")'
    )


def test_inverted_image_is_combined_with_a_seed(invert, latent_server):
    file = payload(sample(latent_server, 7))
    page = invert(file)
    page.get_by_role("button", name="Combine with…").click()
    expect(page.get_by_role("group", name="the first image")).to_contain_text("an inverted image")
    with page.expect_request("**/v1/mix-styles") as request:
        page.get_by_label("Mix styles").check()
    body = request.value.post_data_json
    assert body["rows"] == [{"w": latent(latent_server, file)["w"]}]
    assert body["columns"] == [{"seed": 1}]
    expect(page.locator(".pair-result img")).to_have_attribute("src", re.compile("^blob:"))
    expected = served_pixels(latent_server, "/v1/mix-styles", body)[0]
    assert (image_pixels(page, ".pair-result img") == expected).all()


@pytest.mark.slow
def test_inverted_image_walks_to_seeds(invert, latent_server):
    page = invert(payload(sample(latent_server, 7)))
    page.get_by_role("button", name="Details").click()
    details = page.get_by_role("complementary")
    with page.expect_request("**/v1/interpolate") as request:
        details.get_by_role("button", name="Walk from here").click()
    first, *others = request.value.post_data_json["sources"]
    assert set(first) == {"w"}
    assert others == [{"seed": 1}, {"seed": 2}, {"seed": 3}]
    expect(page.locator(".walk-canvas")).to_have_attribute("width", str(SIZE))


@pytest.mark.slow
def test_problem_of_the_service_is_shown(invert, latent_server, faults):
    page = invert(payload(sample(latent_server, 1)))
    page.route(
        "**/v1/invert",
        lambda route: route.continue_(headers={**route.request.headers, "x-deadline-ms": "none"}),
    )
    page.locator("input[type=file]").set_input_files(payload(sample(latent_server, 2)))
    expect(page.get_by_role("alert")).to_contain_text("X-Deadline-Ms: expected a positive integer")
    faults.expect("400")


@pytest.mark.parametrize("size", [PHONE, pytest.param(DESKTOP, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", ["dark", pytest.param("light", marks=pytest.mark.slow)])
def test_panel_is_accessible_and_fits_the_window(invert, latent_server, size, scheme):
    page = invert(
        payload(sample(latent_server, 1)), "movable-classes", size=size, color_scheme=scheme
    )
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
