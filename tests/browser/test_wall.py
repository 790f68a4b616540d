"""The wall of images: what a visitor touches first."""

import json
import re

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.support.browser import DESKTOP, PHONE, TABLET, accessibility_violations

CONDITIONAL = "/#model=cgan-fashion&panel=wall"
STYLES = "/#model=stylegan2-flowers&panel=wall"


def wall(page: Page):
    return page.get_by_role("group", name="Images of")


def tile(page: Page, label: str):
    """The image with a label, such as `seed 7`."""
    return wall(page).get_by_role("button", name=re.compile(rf", {re.escape(label)}(?! ·|\d)"))


def labels(page: Page) -> list[str]:
    buttons = wall(page).locator(".tile-image")
    return buttons.evaluate_all("list => list.map((each) => each.getAttribute('aria-label'))")


def expect_loaded(page: Page, label: str) -> None:
    image = tile(page, label).locator("img")
    expect(image).to_have_js_property("complete", value=True)
    page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())


def test_first_page_shows_images_of_a_generator(page):
    expect(page.get_by_role("heading", level=1)).to_have_text("stylegan2-flowers")
    expect_loaded(page, "seed 0")
    expect_loaded(page, "seed 9")


def test_lists_all_models_with_previews(page, server):
    with server.client() as client:
        listed = client.get("/v1/models").json()["data"]
    # A text encoder is a part of other models.
    models = [model for model in listed if model["task"] != "text-encoder"]
    cards = page.get_by_role("navigation", name="Models").get_by_role("button")
    expect(cards).to_have_count(len(models))
    preview = cards.filter(has_text="biggan-flowers").locator("img")
    page.wait_for_function("image => image.naturalWidth > 0", arg=preview.element_handle())
    cards.filter(has_text="gan-mnist").first.click()
    expect(page).to_have_url(re.compile(r"#model=(wgan-gp|gan)-mnist&panel=wall"))


def test_small_images_are_enlarged_by_a_whole_factor(open_page):
    page = open_page(CONDITIONAL)
    expect_loaded(page, "seed 0")
    image = tile(page, "seed 0").locator("img")
    width = image.evaluate("image => image.clientWidth")
    assert width % 28 == 0
    assert width > 28
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"


def test_scrolls_without_end_and_frees_what_is_far_away(page):
    expect_loaded(page, "seed 0")
    for _ in range(4):
        count = page.locator(".wall-page").count()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_function(
            "count => document.querySelectorAll('.wall-page').length > count", arg=count
        )
    last = int(re.search(r"\d+$", labels(page)[-1])[0])
    assert last > 200
    expect_loaded(page, f"seed {last}")
    expect(tile(page, "seed 0")).to_have_count(0)
    page.evaluate("scrollTo(0, 0)")
    expect_loaded(page, "seed 0")


def test_seed_class_and_truncation_change_the_images(open_page):
    page = open_page("/#model=biggan-flowers&panel=wall")
    page.get_by_label("Seed", exact=True).fill("40")
    expect_loaded(page, "seed 40")
    page.get_by_label("roses").check()
    expect_loaded(page, "seed 40 · roses")
    page.get_by_role("slider", name="Truncation").press("Home")
    expect_loaded(page, "seed 40 · roses · truncation 0")
    # The URL follows a moment after the images.
    for parameter in ("seed=40", "class=roses", "truncation=0"):
        expect(page).to_have_url(re.compile(parameter + r"(&|$)"))
    page.reload()
    expect_loaded(page, "seed 40 · roses · truncation 0")


def test_dragging_cancels_superseded_requests(page):
    """The first requests for changed images never arrive, and the last ones do."""
    expect_loaded(page, "seed 0")
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if len(held) < 2:
            held.append(route)
        else:
            route.continue_()

    failed = []

    def on_failure(request: Request) -> None:
        failed.append(request)

    page.on("requestfailed", on_failure)
    page.route("**/v1/generate", hold_first)
    slider = page.get_by_role("slider", name="Drag through seeds")
    slider.focus()
    for _ in range(5):
        slider.press("PageUp")
    value = int(slider.input_value())
    assert value > 0
    expect_loaded(page, f"seed {value}")
    assert failed, "no request was cancelled"
    assert all("ERR_ABORTED" in request.failure for request in failed)


def test_image_is_described_by_its_own_request(open_page):
    """An image that arrives after the next change is not described by that change."""
    page = open_page(CONDITIONAL)
    expect_loaded(page, "seed 0")
    held: dict[str, list[Route]] = {"bag": [], "coat": []}
    page.route(
        "**/v1/generate", lambda route: held[route.request.post_data_json["class"]].append(route)
    )
    # Time stands still, so that the superseded request is not cancelled.
    page.clock.install(time=0)
    page.clock.pause_at(1)
    with page.expect_request("**/v1/generate"):
        page.get_by_label("bag", exact=True).check()
    page.get_by_label("coat", exact=True).check()
    for route in held["bag"]:
        route.continue_()
    expect_loaded(page, "seed 0 · bag")


def test_link_in_the_same_tab_leaves_nothing_set(open_page):
    page = open_page(f"{CONDITIONAL}&seed=5&class=bag")
    expect_loaded(page, "seed 5 · bag")
    page.evaluate("hash => { location.hash = hash; }", "#model=cgan-fashion&seed=9")
    expect_loaded(page, "seed 9")
    expect(tile(page, "seed 9")).to_have_attribute("aria-label", "cgan-fashion, seed 9")


def test_click_keeps_an_image_and_shows_how_to_make_it_again(page, server):
    tile(page, "seed 7").click()
    expect(tile(page, "seed 7")).to_have_attribute("aria-pressed", "true")
    details = page.get_by_role("complementary", name="Details of an image")
    address = details.get_by_role("group", name="Address").get_by_role("link")
    expect(address).to_have_text(f"{server.url}/v1/models/stylegan2-flowers/images/7.png?version=1")
    expect(details.get_by_role("group", name="curl")).to_contain_text("curl -fsS")
    expect(details.get_by_role("group", name="Python")).to_contain_text(
        'client.generate("stylegan2-flowers@1", seeds=[7])'
    )
    kept = page.evaluate("localStorage.getItem('ganymede.kept')")
    body = {"model": "stylegan2-flowers@1", "seed": 7}
    assert json.loads(kept) == [{"path": "/v1/generate", "body": body}]
    tile(page, "seed 7").click()
    expect(tile(page, "seed 7")).to_have_attribute("aria-pressed", "false")


FIRST_BYTES = {
    "PNG": b"\x89PNG",
    "JPEG": b"\xff\xd8",
    "WebP": b"RIFF",
    "NPY": b"\x93NUMPY",
    "ZIP": b"PK",
    "JSON": b"{",
}


def test_downloads_in_every_format(page):
    tile(page, "seed 3").click()
    for label, first_bytes in FIRST_BYTES.items():
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Download as {label}", exact=True).click()
        assert waiting.value.path().read_bytes().startswith(first_bytes)
        assert waiting.value.suggested_filename.startswith("stylegan2-flowers-seed-3.")


def test_keyboard_reaches_keeps_and_describes_images(page):
    expect_loaded(page, "seed 0")
    tile(page, "seed 0").focus()
    page.keyboard.press("ArrowRight")
    expect(tile(page, "seed 1")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(tile(page, "seed 1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(tile(page, "seed 1")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("i")
    expect(page.get_by_role("heading", name="seed 1")).to_be_focused()
    page.keyboard.press("Escape")
    expect(tile(page, "seed 1")).to_be_focused()


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        (PHONE, "dark"),
        (DESKTOP, "light"),
        pytest.param(TABLET, "light", marks=pytest.mark.slow),
        pytest.param(DESKTOP, "dark", marks=pytest.mark.slow),
    ],
)
def test_is_accessible_and_fits_the_window(open_page, size, scheme):
    page = open_page(CONDITIONAL, size=size, color_scheme=scheme, reduced_motion="reduce")
    expect_loaded(page, "seed 0")
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_theme_can_be_switched_and_is_remembered(open_page):
    page = open_page("/", color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate(background) != light
    page.reload()
    assert page.evaluate(background) != light
