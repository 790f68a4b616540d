"""The image-to-image tools of the playground, with the included models."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.support.browser import DESKTOP, PHONE, TABLET, accessibility_violations
from tests.support.marks import slow_except

TOOLS = {
    "translate": "cyclegan-emoji",
    "upscale": "esrgan-flowers",
    "colorize": "colorize-flowers",
    "inpaint": "inpaint-flowers",
}


def image_file(width=64, height=48, name="photo.png", image_format="PNG") -> FilePayload:
    """A smooth image in colors, as a file to upload."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    media_type = f"image/{image_format.lower()}"
    return FilePayload(name=name, mimeType=media_type, buffer=file.getvalue())


def open_tool(open_page, model: str, **options) -> Page:
    page = open_page(f"/#model={model}", **options)
    expect(page.get_by_role("heading", name=model)).to_be_visible()
    return page


def choose(page: Page, file: FilePayload) -> None:
    page.get_by_label("Choose an image").set_input_files(file)


def download(page: Page) -> bytes:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download", exact=True).click()
    return waiting.value.path().read_bytes()


def result_status(page: Page) -> Locator:
    return page.get_by_role("region", name="Result").get_by_role("status")


def curl_of(page: Page) -> Locator:
    return page.locator(".tool-code pre").first


def drag(
    page: Page, surface: Locator, start: tuple[float, float], end: tuple[float, float]
) -> None:
    """Drag over an element; the points are fractions of its width and height."""
    surface.scroll_into_view_if_needed()
    box = surface.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=5)
    page.mouse.up()


UPSCALED = ("upscale", (256, 192))


@pytest.mark.parametrize(
    ("task", "size"), slow_except(UPSCALED, [UPSCALED, ("colorize", (64, 48))])
)
def test_uploaded_image_is_processed_and_downloads(open_page, task, size):
    page = open_tool(open_page, TOOLS[task])
    choose(page, image_file())
    expect(result_status(page)).to_contain_text(f"{size[0]} × {size[1]} pixels")
    image = Image.open(io.BytesIO(download(page)))
    assert (image.format, image.size) == ("PNG", size)
    page.get_by_label("Format of the download").select_option("webp")
    assert Image.open(io.BytesIO(download(page))).format == "WEBP"
    page.get_by_label("Format of the download").select_option("npy")
    assert np.load(io.BytesIO(download(page))).shape == (1, size[1], size[0], 3)


def test_translates_in_both_directions(open_page):
    page = open_tool(open_page, "cyclegan-emoji")
    page.get_by_role("button", name="Use the face").click()
    expect(result_status(page)).to_contain_text("pixels")
    first = download(page)
    page.locator("label", has_text="fluent to noto").click()
    expect(curl_of(page)).to_contain_text("direction=fluent-to-noto")
    assert download(page) != first


def test_draws_a_sketch_and_translates_it(open_page):
    page = open_tool(open_page, "sketch2emoji")
    page.get_by_role("button", name="Draw one").click()
    surface = page.get_by_role("application", name="Your drawing")
    before = surface.bounding_box()
    drag(page, surface, (0.2, 0.5), (0.8, 0.5))
    expect(result_status(page)).to_contain_text("64 × 64 pixels")
    # Otherwise the next stroke would begin elsewhere.
    assert surface.bounding_box() == before
    pixels = np.asarray(Image.open(io.BytesIO(download(page))).convert("RGB"))
    assert pixels.std() > 0


# Dispatches an event with a file, as the browser does for a drop and for a paste.
TRANSFER = """([target, type, name, text]) => {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const init = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
  const event = type === "paste" ? new ClipboardEvent(type, init) : new DragEvent(type, init);
  document.querySelector(target).dispatchEvent(event);
}"""


def test_image_is_dropped_and_pasted(open_page):
    page = open_tool(open_page, "colorize-flowers")
    expect(page.get_by_role("button", name="Other examples")).to_be_visible()
    for kind, size in (("drop", (40, 30)), ("paste", (30, 40))):
        content = base64.b64encode(image_file(*size)["buffer"]).decode()
        page.evaluate(TRANSFER, ["main", kind, f"{kind}.png", content])
        caption = f"{kind}.png, {size[0]} × {size[1]} pixels."
        expect(page.get_by_role("region", name="Image")).to_contain_text(caption)
        expect(result_status(page)).to_contain_text(f"{size[0]} × {size[1]} pixels")


def test_image_of_a_generator_is_opened_in_a_tool(open_page):
    page = open_tool(open_page, "stylegan2-flowers")
    page.locator(".tile-image").first.click()
    page.locator("summary", has_text="Use as the input of").click()
    page.get_by_role("button", name="Upscale: esrgan-flowers").click()
    expect(page.get_by_role("heading", name="esrgan-flowers")).to_be_visible()
    expect(page.get_by_role("region", name="Image")).to_contain_text("stylegan2-flowers, seed 0")
    expect(result_status(page)).to_contain_text("128 × 128 pixels")


def test_before_and_after_are_compared_with_the_keyboard(open_page):
    page = open_tool(open_page, "esrgan-flowers")
    page.get_by_role("button", name=re.compile("^Use biggan-flowers")).first.click()
    slider = page.get_by_role("slider", name="Compare before and after")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "0% before, 100% after")
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "1% before, 99% after")
    assert page.locator(".compare").evaluate("e => e.style.getPropertyValue('--split')") == "1%"


def test_result_for_an_example_can_be_kept_and_is_reproduced_by_its_request(open_page):
    page = open_tool(open_page, "esrgan-flowers")
    with page.expect_request("**/v1/upscale") as request:
        page.get_by_role("button", name=re.compile("^Use stylegan2-flowers(?!-)")).first.click()
    body = request.value.post_data_json
    assert body["samples"]["model"].startswith("stylegan2-flowers@")
    expect(result_status(page)).to_contain_text("128 × 128 pixels")
    again = page.request.post("/v1/upscale", data=body)
    assert again.body() == download(page)
    details = page.get_by_role("complementary")
    # The size of this result, not that of the images of the model.
    expect(details.locator(".facts")).to_contain_text("128 × 128")
    details.get_by_role("button", name="Keep").click()
    expect(details.get_by_role("button", name="Kept")).to_have_attribute("aria-pressed", "true")


def test_painted_area_is_filled_and_the_rest_is_unchanged(open_page):
    page = open_tool(open_page, "inpaint-flowers")
    file = image_file(64, 64)
    choose(page, file)
    surface = page.get_by_role("application", name="The area to fill")
    drag(page, surface, (0.4, 0.4), (0.6, 0.4))
    expect(result_status(page)).to_contain_text("64 × 64 pixels")
    boxes = json.loads(re.search(r"boxes=(\[.*\])", curl_of(page).text_content())[1])
    before = np.asarray(Image.open(io.BytesIO(file["buffer"])))
    after = np.asarray(Image.open(io.BytesIO(download(page))))
    hole = np.zeros((64, 64), bool)
    for x, y, width, height in boxes:
        hole[y : y + height, x : x + width] = True
    assert hole[26, 32]
    assert 0.02 < hole.mean() < 0.2
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole] != before[hole]).any()


def test_mask_is_painted_with_the_keyboard(open_page):
    page = open_tool(open_page, "inpaint-flowers")
    choose(page, image_file(64, 64))
    surface = page.get_by_role("application", name="The area to fill")
    page.locator("label", has_text="Rectangle").click()
    surface.focus()
    page.keyboard.press("Space")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    # From the center, by half the size of the brush at each press.
    expect(curl_of(page)).to_contain_text("boxes=[[32,32,12,12]]")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Paint over what should be replaced.")).to_be_visible()
    page.get_by_role("button", name="All").click()
    expect(curl_of(page)).to_contain_text("boxes=[[0,0,64,64]]")


@pytest.mark.slow
def test_intricate_mask_is_sent_as_a_file(open_page):
    page = open_tool(open_page, "inpaint-flowers")
    choose(page, image_file(400, 400))
    surface = page.get_by_role("application", name="The area to fill")
    for start in (0.2, 0.5):
        drag(page, surface, (start, 0.1), (start + 0.3, 0.9))
    expect(curl_of(page)).to_contain_text("mask=@mask.png")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the mask").click()
    mask = np.asarray(Image.open(waiting.value.path()).convert("L"))
    assert mask.shape == (400, 400)
    assert set(np.unique(mask)) == {0, 255}


def test_large_image_is_reduced_and_the_page_says_so(open_page):
    page = open_tool(open_page, "colorize-flowers")
    choose(page, image_file(600, 400, "large.jpg", "JPEG"))
    expect(result_status(page)).to_contain_text("600 × 400 pixels")
    page.get_by_label("Longest side sent").select_option("256")
    expect(result_status(page)).to_contain_text("256 × 171 pixels")
    expect(page.get_by_text("Reduced from 600 × 400 before it is sent.").first).to_be_visible()


def test_request_is_shown_as_curl_and_python(open_page):
    page = open_tool(open_page, "esrgan-flowers")
    choose(page, image_file(name="it's a photo.png"))
    page.locator("summary", has_text="Make it again").click()
    expect(curl_of(page)).to_be_visible()
    curl = curl_of(page).text_content()
    assert "/v1/upscale" in curl
    assert "-F 'model=esrgan-flowers@1'" in curl
    assert "-F 'image=@it'\\''s a photo.png'" in curl
    python = page.locator(".tool-code pre").last.text_content()
    assert 'client.upscale("esrgan-flowers@1", "it\'s a photo.png")' in python


def test_file_that_is_no_image_is_reported(open_page):
    page = open_tool(open_page, "esrgan-flowers")
    choose(page, FilePayload(name="notes.png", mimeType="image/png", buffer=b"no image"))
    expect(page.get_by_role("alert")).to_contain_text(
        "This browser cannot read notes.png as an image"
    )


def test_problem_of_the_service_is_shown(open_page, faults):
    page = open_tool(open_page, "sketch2emoji")
    page.route(
        "**/v1/translate",
        lambda route: route.continue_(headers={**route.request.headers, "x-deadline-ms": "none"}),
    )
    page.get_by_role("button", name="Use the face").click()
    expect(page.get_by_role("alert")).to_contain_text("X-Deadline-Ms: expected a positive integer")
    faults.expect("400")


def test_request_in_progress_is_cancelled(open_page):
    page = open_tool(open_page, "esrgan-flowers")
    # Held back, because the server may be faster than the click.
    page.route("**/v1/upscale", lambda route: None)
    choose(page, image_file())
    page.get_by_role("button", name="Cancel").click()
    expect(result_status(page)).to_have_text("Cancelled.")
    page.unroute("**/v1/upscale")
    page.get_by_role("button", name="Run again").click()
    expect(result_status(page)).to_contain_text("256 × 192 pixels")


@pytest.mark.parametrize("task", slow_except("inpaint", TOOLS))
def test_tools_are_accessible_and_fit_the_window(open_page, task):
    page = open_tool(open_page, TOOLS[task])
    choose(page, image_file())
    if task == "inpaint":
        page.get_by_role("button", name="All").click()
    expect(result_status(page)).to_contain_text("pixels")
    for (width, height), scheme in ((DESKTOP, "light"), (TABLET, "light"), (PHONE, "dark")):
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        assert accessibility_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
