"""Images moved along the directions of a model: sliders, links, strips and grids."""

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
from tests.support.drawn_models import SIZE

EDIT = "/v1/edit"
EDITED = ".edit-image .pair-tile img"


@pytest.fixture
def open_editor(open_page, latent_server):
    def open_editor(parameters: str = "", model: str = "movable", **options) -> Page:
        return open_page(f"/#model={model}&panel=edit{parameters}", of=latent_server, **options)

    return open_editor


def edited(page: Page, label: str):
    """The tile of a result, by the end of its label."""
    return page.locator(".edit-image").get_by_role("button", name=re.compile(f", {label}$"))


def test_sliders_move_the_image(open_editor, latent_server):
    page = open_editor("&seed=3")
    set_slider(page, "bright", 1.5)
    set_slider(page, "warm", -2)
    expect(edited(page, r"seed 3 · bright \+1.5 · warm −2")).to_be_visible()
    body = {"model": "movable", "seed": 3, "directions": {"bright": 1.5, "warm": -2}}
    expected = served_pixels(latent_server, EDIT, body)[0]
    assert (image_pixels(page, EDITED) == expected).all()
    page.get_by_role("button", name="Reset warm").click()
    expect(edited(page, r"seed 3 · bright \+1.5")).to_be_visible()
    page.get_by_role("button", name="Reset all").click()
    expect(page.get_by_role("slider", name="bright")).to_have_value("0")
    expect(edited(page, "seed 3").last).to_be_visible()
    seed = served_pixels(latent_server, "/v1/generate", {"model": "movable", "seed": 3})[0]
    assert (image_pixels(page, EDITED) == seed).all()


def test_slider_moves_with_the_keyboard_and_is_described_by_its_figures(open_editor):
    page = open_editor()
    slider = page.get_by_role("slider", name="bright")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "+0.2")
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "−3")
    description = "coarse layers · effect 0.5 (random 0.2) · drift 0.1 (0.2)"
    expect(slider).to_have_accessible_description(description)


def test_link_restores_seed_amounts_and_layers(open_editor, latent_server):
    page = open_editor("&seed=5")
    set_slider(page, "bright", 2)
    page.get_by_label("fine", exact=True).check()
    page.wait_for_url(re.compile("layers=fine&directions=bright:2"))
    address = page.url.removeprefix(latent_server.url)
    again = open_editor(address.partition("panel=edit")[2])
    expect(again.get_by_role("slider", name="bright")).to_have_value("2")
    expect(again.get_by_label("fine", exact=True)).to_be_checked()
    body = {"model": "movable", "seed": 5, "directions": {"bright": 2}, "layers": ["fine"]}
    expected = served_pixels(latent_server, EDIT, body)[0]
    expect(edited(again, r"seed 5 · bright \+2")).to_be_visible()
    expect(again.locator(EDITED)).to_have_attribute("src", re.compile("^blob:"))
    assert (image_pixels(again, EDITED) == expected).all()


def test_amounts_of_a_link_are_limited_to_what_the_sliders_have(open_editor):
    page = open_editor("&directions=bright:99,unknown:1,warm:x")
    expect(page.get_by_role("slider", name="bright")).to_have_value("3")
    expect(page.get_by_role("slider", name="warm")).to_have_value("0")
    expect(edited(page, r"seed 0 · bright \+3")).to_be_visible()


@pytest.mark.slow
def test_layers_exclude_directions_of_z(open_editor):
    page = open_editor("&directions=turn:1")
    expect(edited(page, r"seed 0 · turn \+1")).to_be_visible()
    page.get_by_label("coarse", exact=True).check()
    expect(page.get_by_role("slider", name="turn")).to_be_disabled()
    expect(edited(page, "seed 0").last).to_be_visible()


def test_edited_image_is_kept_and_opened_again(open_editor, latent_server):
    page = open_editor("&seed=3&directions=bright:-1.5")
    page.locator("#panel").get_by_role("button", name="Keep").click()
    body = {"model": "movable", "seed": 3, "directions": {"bright": -1.5}}
    expected = served_pixels(latent_server, EDIT, body)[0]
    assert (image_pixels(page, "#tray .tile-image img") == expected).all()
    page.reload()
    page.get_by_role("button", name="Reset all").click()
    page.locator("#tray .tile-image").focus()
    page.keyboard.press("i")
    page.get_by_role("complementary").get_by_role("button", name="Edit").click()
    expect(page.get_by_role("slider", name="bright")).to_have_value("-1.5")


def test_strip_has_a_row_for_each_image(open_editor, latent_server):
    page = open_editor("&seed=3&directions=warm:1")
    page.get_by_role("button", name="Add an image").click()
    page.get_by_label("Seed of image 2", exact=True).fill("8")
    page.get_by_label("Strip along").select_option("bright")
    tiles = page.locator(".strip .tile.is-loaded")
    expect(tiles).to_have_count(14)
    expect(tiles.nth(7).locator(".tile-image")).to_have_attribute(
        "aria-label", "movable, seed 8 · warm +1 · bright −3"
    )
    body = {"model": "movable", "seeds": [3, 8], "directions": {"warm": 1, "bright": [-3, 0]}}
    expected = served_pixels(latent_server, EDIT, body)
    assert (image_pixels(page, ".strip .tile >> nth=7 >> img") == expected[2]).all()
    assert (image_pixels(page, ".strip .tile >> nth=3 >> img") == expected[1]).all()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the strip as PNG").click()
    grid = np.asarray(Image.open(waiting.value.path()).convert("RGB"))
    assert grid.shape == (2 * SIZE, 7 * SIZE, 3)
    assert (grid[SIZE:, :SIZE] == expected[2]).all()


@pytest.mark.slow
def test_grid_of_two_directions(open_editor, latent_server):
    page = open_editor("&seed=3")
    page.get_by_label("Strip along").select_option("bright")
    page.get_by_label("and down along").select_option("warm")
    tiles = page.locator(".strip.is-grid .tile.is-loaded")
    expect(tiles).to_have_count(25)
    # The first row, the last column.
    label = tiles.nth(4).locator(".tile-image")
    expect(label).to_have_attribute("aria-label", "movable, seed 3 · bright +2 · warm −2")
    body = {"model": "movable", "seed": 3, "directions": {"bright": 2, "warm": -2}}
    expected = served_pixels(latent_server, EDIT, body)[0]
    assert (image_pixels(page, ".strip .tile >> nth=4 >> img") == expected).all()


def test_only_the_newest_amount_is_shown(open_editor, latent_server):
    page = open_editor("&seed=3")
    expect(page.locator(EDITED)).to_have_attribute("src", re.compile("^blob:"))
    sent = []

    def hold_the_first(route: Route) -> None:
        sent.append(route.request.post_data_json["directions"])
        if len(sent) > 1:
            route.continue_()

    page.route("**/v1/edit", hold_the_first)
    set_slider(page, "bright", 1)
    set_slider(page, "bright", 2)
    body = {"model": "movable", "seed": 3, "directions": {"bright": 2}}
    expect(edited(page, r"seed 3 · bright \+2")).to_be_visible()
    expected = served_pixels(latent_server, EDIT, body)[0]
    assert (image_pixels(page, EDITED) == expected).all()
    assert sent == [{"bright": 1}, {"bright": 2}]


@pytest.mark.slow
def test_problem_of_the_service_is_shown(open_editor, faults):
    page = open_editor()
    page.route(
        "**/v1/edit",
        lambda route: route.continue_(headers={**route.request.headers, "x-deadline-ms": "none"}),
    )
    set_slider(page, "bright", 1)
    expect(page.locator("#notices")).to_contain_text("X-Deadline-Ms: expected a positive integer")
    faults.expect("400")


def test_class_conditional_model_is_edited_in_z(open_editor, latent_server):
    page = open_editor("&seed=2&class=dog", model="movable-classes")
    set_slider(page, "turn", 1)
    expect(edited(page, r"seed 2 · dog · turn \+1")).to_be_visible()
    body = {"model": "movable-classes", "seed": 2, "class": "dog", "directions": {"turn": 1}}
    expected = served_pixels(latent_server, EDIT, body)[0]
    assert (image_pixels(page, EDITED) == expected).all()


@pytest.mark.parametrize("size", [PHONE, pytest.param(DESKTOP, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_editor_is_accessible_and_fits_the_window(open_editor, size, scheme):
    page = open_editor(
        "&directions=bright:1", size=size, color_scheme=scheme, reduced_motion="reduce"
    )
    page.get_by_label("Strip along").select_option("bright")
    page.get_by_label("and down along").select_option("warm")
    expect(page.locator(".strip .tile.is-loaded")).to_have_count(25)
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
