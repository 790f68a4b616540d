"""Chromium decodes files with the mark of generated images in every format."""

import base64

import numpy as np

from service.runtime.images.animation import WRITERS, AnimationSpec, write
from service.runtime.images.encoding import ImageFormat, encode
from service.runtime.images.xmp import read_source_type
from service.runtime.video.animation import VIDEO_WRITERS
from service.runtime.video.metadata import source_type_of

WIDTH, HEIGHT = 48, 32
_IMAGE = """async (url) => {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [canvas.width, canvas.height, ...context.getImageData(20, 20, 1, 1).data];
}"""
_VIDEO = """(url) => new Promise((resolve, reject) => {
  const video = document.createElement("video");
  video.onloadeddata = () => resolve([video.videoWidth, video.videoHeight, video.duration]);
  video.onerror = () => reject(new Error(video.error.message));
  video.src = url;
})"""


def url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def test_chromium_decodes_every_format(browser):
    color = (200, 40, 90)
    frames = np.full((5, HEIGHT, WIDTH, 3), color, np.uint8)
    spec = AnimationSpec(5, HEIGHT, WIDTH, 3, 5, {"seed": 7}, lambda _: {"seed": 7})
    page = browser.new_page()
    files = {kind.media_type: encode(frames[0], kind, {"seed": 7}) for kind in ImageFormat}
    for name, media_type in {"gif": "image/gif", "webp": "image/webp", "png": "image/png"}.items():
        files[f"{media_type};animated"] = write(WRITERS[name](spec), frames)
    for media_type, content in files.items():
        assert read_source_type(content) is not None
        width, height, *shown = page.evaluate(_IMAGE, url(content, media_type))
        assert (width, height) == (WIDTH, HEIGHT), media_type
        # JPEG and the palette of a GIF are not exact.
        assert np.abs(np.subtract(shown[:3], color)).max() <= 3, media_type
    for name, writer in VIDEO_WRITERS.items():
        content = write(writer(spec), frames)
        assert source_type_of(content) is not None
        size = page.evaluate(_VIDEO, url(content, f"video/{name}"))
        assert size[:2] == [WIDTH, HEIGHT], name
        assert 0.9 < size[2] < 1.1
    page.close()
