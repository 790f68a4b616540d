"""The kept images: they survive a reload, and a link shares them."""

import json
import re

from playwright.sync_api import Page, expect

from tests.support.browser import PHONE, accessibility_violations


def tile(page: Page, label: str):
    return page.locator(".wall").get_by_role("button", name=re.compile(rf", {label}$"))


def keep(page: Page, *labels: str) -> None:
    for label in labels:
        tile(page, label).click()
        expect(tile(page, label)).to_have_attribute("aria-pressed", "true")


def gallery(page: Page):
    return page.locator("#panel").get_by_role("group", name="Kept images").locator(".tile-image")


def expect_image(page: Page, button) -> None:
    image = button.locator("img").element_handle()
    page.wait_for_function("image => image.naturalWidth > 0", arg=image)


def test_kept_images_survive_a_reload(open_page):
    page = open_page("/#model=gan-mnist")
    keep(page, "seed 2", "seed 4")
    page.reload()
    expect(tile(page, "seed 2")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name=re.compile("Gallery")).click()
    expect(gallery(page)).to_have_count(2)
    expect_image(page, gallery(page).first)


def test_link_shares_the_gallery_without_the_server(open_page, server, browser):
    page = open_page("/#model=gan-mnist", permissions=["clipboard-read", "clipboard-write"])
    keep(page, "seed 2", "seed 4")
    page.get_by_role("tab", name="Combine").click()
    page.locator("#panel").get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("Copied a link to 3 images")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{server.url}/#kept=gan-mnist@1/2,gan-mnist@1/4,~")

    visitor = open_page(link.removeprefix(server.url))
    expect(visitor.get_by_role("heading", name="3 images from a link")).to_be_visible()
    shared = visitor.get_by_role("group", name="Images from a link").locator(".tile-image")
    expect(shared).to_have_count(3)
    for i in range(3):
        expect_image(visitor, shared.nth(i))
    visitor.get_by_role("button", name="Keep all").click()
    expect(gallery(visitor)).to_have_count(3)
    visitor.reload()
    expect(gallery(visitor)).to_have_count(3)


def test_removed_images_come_back_with_undo(open_page):
    page = open_page("/#model=gan-mnist")
    keep(page, "seed 1", "seed 3")
    page.get_by_role("button", name=re.compile("Gallery")).click()
    page.get_by_role("button", name="Remove all").click()
    expect(gallery(page)).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(gallery(page)).to_have_count(2)


def test_undo_leaves_what_was_kept_since(open_page):
    page = open_page("/#model=gan-mnist")
    keep(page, "seed 1", "seed 3")
    tile(page, "seed 1").click()
    keep(page, "seed 5")
    page.get_by_role("button", name="Undo").click()
    tray = page.get_by_role("group", name="Kept images").locator(".tile-caption")
    expect(tray).to_have_text(["1", "3", "5"])


def test_damaged_links_and_storage_are_ignored(open_page):
    page = open_page("/#kept=gan-mnist@1/7,~damaged,gan-mnist/x,~" + "e30" + "&model=%zz")
    expect(page.get_by_role("heading", name="1 image from a link")).to_be_visible()
    stored = json.dumps([{"path": "/v1/admin/reload", "body": {}}, 7, None])
    page.evaluate("text => localStorage.setItem('ganymede.kept', text)", stored)
    page.goto("/#panel=gallery")
    page.reload()
    expect(page.get_by_text("Nothing is kept yet")).to_be_visible()


def test_item_of_a_missing_model_says_so(open_page, faults):
    page = open_page("/#kept=no-such-model@1/7")
    shared = page.get_by_role("group", name="Images from a link")
    expect(shared.locator(".tile")).to_have_class(re.compile("is-failed"))
    expect(shared).to_contain_text("no-such-model")
    faults.expect("404")


def test_gallery_is_accessible_on_a_phone(open_page):
    page = open_page(
        "/#kept=gan-mnist@1/7,cgan-fashion@1/3;class=bag", size=PHONE, reduced_motion="reduce"
    )
    shared = page.get_by_role("group", name="Images from a link").locator(".tile-image")
    expect_image(page, shared.first)
    assert accessibility_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
