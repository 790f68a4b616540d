"""The panel of audio: outputs that can be played, with their waveforms."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.output_models import AUDIO, CAPTIONED, ENCODER, TEXT_MODEL

CLIENT = Path(__file__).parents[2] / "client" / "src"


@pytest.fixture
def page(browser, output_server):
    context = browser.new_context(base_url=str(output_server.client().base_url))
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"/#model={AUDIO}&panel=audio&seed=5")
    yield page
    context.close()
    assert not errors


def test_outputs_of_consecutive_seeds_can_be_played(page):
    rows = page.locator(".audio-row")
    expect(rows).to_have_count(8)
    expect(rows.first).to_contain_text("Seed 5, night owl")
    expect(rows.first.locator("audio")).to_have_js_property("readyState", 4)
    duration = rows.first.locator("audio").evaluate("(audio) => audio.duration")
    assert duration == pytest.approx(0.25)


def test_waveform_is_drawn_with_the_amplitude_of_the_samples(page):
    canvas = page.locator(".audio-wave").first
    expect(canvas).to_be_visible()
    height = canvas.evaluate(
        "(canvas) => { const { width, height } = canvas;"
        " const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;"
        " let rows = 0;"
        " for (let y = 0; y < height; y += 1) {"
        "  let filled = false;"
        "  for (let x = 0; x < width; x += 1) filled ||= data[4 * (y * width + x) + 3] > 0;"
        "  rows += filled; }"
        " return rows / height; }"
    )
    # The tone has an amplitude of 20,000 of 32,768.
    assert height == pytest.approx(20_000 / 32_768, abs=0.05)


def test_hints_beside_the_panel_are_those_of_its_outputs(page):
    details = page.get_by_role("complementary", name="Details")
    expect(details).to_contain_text("Every number has one result")
    expect(details).not_to_contain_text("Every number is an image", use_inner_text=True)
    page.goto(f"/#model={CAPTIONED}")
    expect(details).to_contain_text("Every number is an image", use_inner_text=True)
    expect(details).not_to_contain_text("Every number has one result", use_inner_text=True)


def test_class_applies_to_all_outputs(page):
    expect(page.locator(".audio-row")).to_have_count(8)
    page.get_by_role("radio", name="dog").check()
    expect(page.locator(".audio-name").first).to_have_text("Seed 5, dog")
    expect(page.locator(".audio-name").last).to_have_text("Seed 12, dog")


def test_models_without_images_are_listed(page):
    expect(page.locator(".card", has_text=AUDIO)).to_contain_text("0.25 s, 8 kHz")


def test_text_encoders_have_no_card(page):
    expect(page.locator(f'.card[data-model="{TEXT_MODEL}"]')).to_be_visible()
    expect(page.locator(f'.card[data-model="{CAPTIONED}"]')).to_be_visible()
    expect(page.locator(f'.card[data-model="{ENCODER}"]')).to_have_count(0)


def test_recipes_generate_the_audio(page, tmp_path):
    expect(page.locator(".audio-row")).to_have_count(8)
    page.get_by_role("radio", name="dog").check()
    expect(page.locator(".audio-name").first).to_have_text("Seed 5, dog")
    page.get_by_text("Make it again", exact=True).click()
    curl, python = (
        page.get_by_role("group", name=title).locator("code").inner_text()
        for title in ("curl", "Python")
    )
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download Seed 5, dog").click()
    downloaded = waiting.value.path().read_bytes()
    subprocess.run(["bash", "-ec", curl], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": str(CLIENT)}
    subprocess.run([sys.executable, "-c", python], cwd=tmp_path, check=True, env=environment)
    assert (tmp_path / "seed-5.wav").read_bytes() == downloaded
    with zipfile.ZipFile(tmp_path / f"{AUDIO}.zip") as archive:
        files = [name for name in archive.namelist() if name.endswith(".wav")]
        assert len(files) == 8
        assert archive.read(files[0]) == downloaded
