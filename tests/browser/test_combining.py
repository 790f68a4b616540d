"""Two images combined, the style matrix and walks: by drag and drop, and by keyboard."""

import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.support.browser import (
    DESKTOP,
    PHONE,
    accessibility_violations,
    image_pixels,
    served_pixels,
    set_slider,
)


def tile(page: Page, label: str):
    return page.locator(".wall").get_by_role("button", name=re.compile(rf", {label}$"))


def canvas_pixels(page: Page, selector: str, height: int, width: int) -> np.ndarray:
    """The pixels of a canvas as `uint8 [H, W, 3]`."""
    data = page.locator(selector).evaluate(
        "canvas => [...canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data]"
    )
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def expect_canvas(page: Page, selector: str, expected: np.ndarray) -> None:
    """Wait until a canvas shows an image."""
    height, width = expected.shape[:2]
    page.wait_for_function(
        """([selector, width, expected]) => {
          const canvas = document.querySelector(selector);
          if (canvas?.width !== width) return false;
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          return expected.every((value, i) => data[4 * Math.floor(i / 3) + (i % 3)] === value);
        }""",
        arg=[selector, width, np.broadcast_to(expected, (height, width, 3)).ravel().tolist()],
    )


def test_dragging_one_image_onto_another_interpolates(open_page, server):
    page = open_page("/#model=dcgan-fashion")
    tile(page, "seed 3").drag_to(tile(page, "seed 5"))
    expect(page.get_by_role("tab", name="Combine")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("Seed of the first image", exact=True)).to_have_value("3")
    expect(page.get_by_label("Seed of the second image", exact=True)).to_have_value("5")
    walk = {"model": "dcgan-fashion", "sources": [3, 5], "frames": 33}
    frames = served_pixels(server, "/v1/interpolate", walk)
    expect_canvas(page, ".pair-canvas", frames[16])
    set_slider(page, "Position", 4)
    expect_canvas(page, ".pair-canvas", frames[4])


def test_keyboard_combines_two_images(open_page):
    page = open_page("/#model=dcgan-fashion")
    tile(page, "seed 1").focus()
    page.keyboard.press("m")
    expect(page.get_by_text("Picked up seed 1")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("m")
    expect(page.get_by_label("Seed of the first image", exact=True)).to_have_value("1")
    expect(page.get_by_label("Seed of the second image", exact=True)).to_have_value("2")


def test_touch_combines_two_images_with_a_button(open_page):
    page = open_page("/#model=dcgan-fashion", size=PHONE, has_touch=True)
    page.get_by_role("button", name="Details of seed 4", exact=True).tap()
    page.get_by_role("button", name="Combine with…").tap()
    tile(page, "seed 2").tap()
    expect(page.get_by_label("Seed of the first image", exact=True)).to_have_value("4")
    expect(page.get_by_label("Seed of the second image", exact=True)).to_have_value("2")


def test_escape_puts_down_what_is_picked_up(open_page):
    page = open_page("/#model=dcgan-fashion")
    tile(page, "seed 1").focus()
    page.keyboard.press("m")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Picked up seed 1")).to_be_hidden()


def test_kept_position_of_an_interpolation_is_the_same_image(open_page, server):
    page = open_page("/#model=dcgan-fashion&panel=pair")
    set_slider(page, "Position", 12)
    page.locator("#panel").get_by_role("button", name="Keep").click()
    walk = {"model": "dcgan-fashion", "sources": [0, 1], "frames": 33}
    expected = served_pixels(server, "/v1/interpolate", walk)[12]
    shown = image_pixels(page, "#tray .tile-image img")
    assert (shown == expected).all()
    page.reload()
    assert (image_pixels(page, "#tray .tile-image img") == expected).all()


def test_first_seed_follows_the_last_one(open_page):
    page = open_page(f"/#model=gan-mnist&panel=pair&seed={2**32 - 1}")
    expect(page.get_by_label("Seed of the second image", exact=True)).to_have_value("0")
    page.wait_for_function("() => document.querySelector('.pair-canvas').width === 28")


def test_styles_are_mixed_by_group(open_page, server):
    page = open_page("/#model=stylegan2-flowers&panel=pair")
    page.get_by_label("Mix styles").check()
    set_slider(page, "coarse", 0)
    set_slider(page, "middle", 0.4)
    set_slider(page, "fine", 1)
    expect(
        page.get_by_role("button", name=re.compile(", seed 0 with middle 40%, fine of 1"))
    ).to_be_visible()
    page.locator("#panel").get_by_role("button", name="Keep").click()
    layers = {"coarse": 0, "middle": 0.4, "fine": 1}
    body = {"model": "stylegan2-flowers", "rows": [0], "columns": [1], "layers": layers}
    expected = served_pixels(server, "/v1/mix-styles", body)[0]
    assert (image_pixels(page, "#tray .tile-image img") == expected).all()


def test_matrix_mixes_rows_with_columns(open_page, server):
    page = open_page("/#model=stylegan2-flowers&panel=matrix")
    page.get_by_label("fine · colors and texture").check()
    cell = "tbody tr:nth-child(2) td:nth-child(3)"
    body = {
        "model": "stylegan2-flowers",
        "rows": [1],
        "columns": [4],
        "layers": {"coarse": 1, "fine": 1},
    }
    expected = served_pixels(server, "/v1/mix-styles", body)[0]
    button = page.locator(cell).get_by_role("button").first
    expect(button).to_have_attribute("aria-label", re.compile("seed 1 with coarse, fine of 4"))
    button.click()
    assert (image_pixels(page, "#tray .tile-image img") == expected).all()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the matrix as PNG").click()
    assert Image.open(waiting.value.path()).size == (5 * 32, 4 * 32)


def test_image_is_dropped_on_a_row(open_page):
    page = open_page("/#model=stylegan2-flowers&panel=wall")
    tile(page, "seed 6").click()
    page.get_by_role("tab", name="Style matrix").click()
    kept = page.locator("#tray .tile-image")
    kept.drag_to(page.get_by_role("group", name="row 2"))
    expect(page.get_by_label("Seed of row 2", exact=True)).to_have_value("6")


def test_walk_plays_pauses_and_downloads(open_page, server):
    page = open_page("/#model=dcgan-fashion&panel=walk&seed=5", reduced_motion="no-preference")
    time = page.get_by_role("slider", name="Time")
    expect(time).not_to_have_value("0")
    page.get_by_role("button", name="Pause").click()
    stopped = time.input_value()
    page.wait_for_function("() => new Promise(requestAnimationFrame)")
    assert time.input_value() == stopped
    set_slider(page, "Duration", 1)
    walk = {"model": "dcgan-fashion", "sources": [5, 6, 7, 8], "frames": 24, "loop": True}
    frames = served_pixels(server, "/v1/interpolate", walk)
    set_slider(page, "Time", 500)
    expect_canvas(page, ".walk-canvas", frames[12])
    for label, image_format in [("WebP", "WEBP"), ("GIF", "GIF"), ("APNG", "PNG")]:
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Download as {label}", exact=True).click()
        image = Image.open(waiting.value.path())
        assert (image.format, image.n_frames) == (image_format, 24)


def test_walk_downloads_as_a_video_that_is_enlarged(open_page):
    av = pytest.importorskip("av", reason="the extra video is missing: make install")
    page = open_page("/#model=dcgan-fashion&panel=walk", reduced_motion="reduce")
    set_slider(page, "Duration", 1)
    for label in ("MP4", "WebM"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Download as {label}", exact=True).click()
        with av.open(str(waiting.value.path())) as video:
            (stream,) = video.streams.video
            assert (stream.width, stream.height) == (16 * 28, 16 * 28)
            assert sum(1 for _ in video.decode(stream)) == 24


def test_videos_are_no_longer_offered_if_the_service_cannot_write_them(open_page, faults):
    page = open_page("/#model=dcgan-fashion&panel=walk", reduced_motion="reduce")

    # Unsupported by every service, with the same problem as a format whose extra is missing.
    def ask_for_another_format(route: Route) -> None:
        body = route.request.post_data_json
        route.continue_(post_data=body | {"format": "avi"} if body["format"] == "mp4" else body)

    page.route("**/v1/interpolate", ask_for_another_format)
    buttons = [
        page.get_by_role("button", name=f"Download as {name}", exact=True)
        for name in ("MP4", "WebM", "GIF")
    ]
    buttons[0].click()
    expect(page.locator("#notices")).to_contain_text("Format: ")
    expect(buttons[0]).to_be_hidden()
    expect(buttons[1]).to_be_hidden()
    expect(buttons[2]).to_be_visible()
    faults.expect("422")


def test_walk_does_not_play_with_reduced_motion(open_page):
    page = open_page("/#model=dcgan-fashion&panel=walk", reduced_motion="reduce")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


@pytest.mark.parametrize("panel", ["pair", "matrix", "walk"])
@pytest.mark.parametrize("size", [PHONE, pytest.param(DESKTOP, marks=pytest.mark.slow)])
def test_tools_are_accessible_and_fit_the_window(open_page, panel, size):
    page = open_page(f"/#model=stylegan2-flowers&panel={panel}", size=size, reduced_motion="reduce")
    expect(page.locator("#panel .source img").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_replaced_images_are_freed(open_page):
    page = open_page("about:blank")
    page.add_init_script(
        """window.urls = new Set();
        const { createObjectURL, revokeObjectURL } = URL;
        URL.createObjectURL = (blob) => {
          const url = createObjectURL(blob);
          window.urls.add(url);
          return url;
        };
        URL.revokeObjectURL = (url) => {
          window.urls.delete(url);
          revokeObjectURL(url);
        };"""
    )
    page.goto("/#model=stylegan2-flowers&panel=matrix")
    tiles = page.locator(".matrix .tile")
    loaded = page.locator(".matrix .tile.is-loaded")
    for count in (19, 23, 27):
        expect(tiles).to_have_count(count)
        expect(loaded).to_have_count(count)
        page.get_by_role("button", name="Add a column").click()
    page.wait_for_function(
        "() => window.urls.size === document.querySelectorAll('img[src^=\"blob:\"]').length"
    )
