"""The panel of prompts: a row of images for each of them."""

import io
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.browser import DESKTOP, PHONE, accessibility_violations, image_pixels, set_slider
from tests.support.output_models import CAPTIONED, MAX_TOKENS

PROMPTS = ["red cat", "blue dog"]
VIEW = f"/#model={CAPTIONED}&panel=prompts&seed=5&n=3&prompt={quote(chr(10).join(PROMPTS))}"


@pytest.fixture
def page(open_page, output_server) -> Page:
    return open_page(VIEW, of=output_server)


def loaded(page: Page):
    return page.locator(".prompt-row .tile.is-loaded")


def test_prompts_have_a_row_each_and_seeds_a_column(page, output_server):
    expect(page.locator(".prompt-row h2")).to_have_text(PROMPTS)
    expect(loaded(page)).to_have_count(6)
    with output_server.client() as client:
        for row, prompt in enumerate(PROMPTS):
            for column in range(3):
                address = f"/v1/models/{CAPTIONED}/images/{5 + column}.png"
                file = client.get(address, params={"prompt": prompt}).content
                expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
                tile = f".prompt-row:nth-child({row + 1}) .tile:nth-child({column + 1}) img"
                assert (image_pixels(page, tile) == expected).all(), (prompt, column)


def test_field_and_sliders_change_images_and_address(page, open_page, output_server):
    expect(loaded(page)).to_have_count(6)
    page.get_by_label("Prompts, one for each line").fill("one\n\n  two  \nthree")
    expect(page.locator(".prompt-row h2")).to_have_text(["one", "two", "three"])
    set_slider(page, "Images of each prompt", 2)
    expect(loaded(page)).to_have_count(6)
    page.get_by_label("Seed", exact=True).fill("40")
    expect(page.get_by_role("button", name=f"{CAPTIONED}, “three” · seed 41")).to_be_visible()
    page.wait_for_function("() => location.hash.includes('seed=40')")
    again = open_page("/" + page.evaluate("location.hash"), of=output_server)
    expect(again.get_by_label("Prompts, one for each line")).to_have_value("one\n\n  two  \nthree")
    expect(again.get_by_role("button", name=f"{CAPTIONED}, “three” · seed 41")).to_be_visible()
    expect(loaded(again)).to_have_count(6)


def test_without_prompts_there_is_a_hint_and_no_image(page):
    expect(loaded(page)).to_have_count(6)
    page.get_by_label("Prompts, one for each line").fill("\n ")
    expect(page.locator(".prompt-row")).to_have_count(0)
    expect(page.get_by_text("Describe an image")).to_be_visible()


def test_truncated_prompts_are_marked(page):
    page.get_by_label("Prompts, one for each line").fill(f"a\n{'b' * (MAX_TOKENS + 3)}")
    expect(page.locator(".prompt-row .hint").nth(1)).to_have_text(
        f"Only the first {MAX_TOKENS} of {MAX_TOKENS + 3} tokens of this prompt are used."
    )
    expect(page.locator(".prompt-row .hint").first).to_be_hidden()


def test_too_many_images_are_refused_with_the_limit(page, faults):
    expect(loaded(page)).to_have_count(6)
    page.get_by_label("Prompts, one for each line").fill(
        "\n".join(f"prompt {i}" for i in range(100))
    )
    expect(page.locator("#panel .problem")).to_contain_text("xpected at most 256 images, got 300")
    # What was shown before stays.
    expect(loaded(page)).to_have_count(6)
    page.get_by_label("Prompts, one for each line").fill("fewer")
    expect(loaded(page)).to_have_count(3)
    expect(page.locator("#panel .problem")).to_be_hidden()
    faults.expect("422")


def test_arrow_keys_move_between_rows_and_enter_keeps(page):
    expect(loaded(page)).to_have_count(6)
    first = page.get_by_role("button", name=f"{CAPTIONED}, “red cat” · seed 5")
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    below = page.get_by_role("button", name=f"{CAPTIONED}, “blue dog” · seed 6").first
    expect(below).to_be_focused()
    page.keyboard.press("Enter")
    page.reload()
    kept = page.locator("#tray .tile-image")
    expect(kept).to_have_count(1)
    expect(kept).to_have_attribute("aria-label", f"{CAPTIONED}, “blue dog” · seed 6")
    expect(page.locator("#tray .tile.is-loaded")).to_have_count(1)


def test_details_show_prompt_and_address(page):
    expect(loaded(page)).to_have_count(6)
    loaded(page).locator(".tile-image").first.click()
    details = page.locator("#details")
    expect(details.locator(".facts")).to_contain_text("red cat")
    expect(details.locator(".details-address")).to_contain_text(
        f"/v1/models/{CAPTIONED}/images/5.png?version=1&prompt=red+cat"
    )


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible_and_fits(open_page, output_server, size, scheme):
    page = open_page(VIEW, of=output_server, size=size, color_scheme=scheme)
    expect(loaded(page)).to_have_count(6)
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
