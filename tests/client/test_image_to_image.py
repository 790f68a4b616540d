"""Image-to-image methods, with images in every form."""

import io

import numpy as np
import PIL.Image
import pytest

from ganymede_client import InvalidImage, InvalidRequest


@pytest.fixture(scope="module")
def photo(service):
    """A file of a flower, 32×32."""
    with service.client() as http:
        return http.get("/v1/models/biggan-flowers/images/9.png").raise_for_status().content


def test_every_form_of_an_image_gives_the_same_output(client, photo, tmp_path):
    path = tmp_path / "flower.png"
    path.write_bytes(photo)
    image = PIL.Image.open(path)
    forms = [photo, path, str(path), io.BytesIO(photo), image, np.asarray(image)]
    outputs = client.upscale("esrgan-flowers", forms)
    assert len(outputs) == len(forms)
    assert outputs.numpy().shape == (6, 128, 128, 3)
    assert all(np.array_equal(output, outputs[0]) for output in outputs)
    batch = client.upscale("esrgan-flowers", np.stack([np.asarray(image)] * 2))
    assert np.array_equal(batch.numpy(), outputs[:2].numpy())


def test_generated_images_are_uploaded_and_sampled_alike(client):
    flower = client.image("biggan-flowers", 9)
    (uploaded,) = client.upscale("esrgan-flowers", flower)
    (sampled,) = client.upscale(
        "esrgan-flowers", samples={"model": "biggan-flowers", "seeds": range(9, 10)}
    )
    assert np.array_equal(uploaded, sampled)
    assert sampled.provenance.parameters["source"]["seed"] == 9
    assert uploaded.url is None


def test_orientation_is_kept(client, photo):
    upright = np.asarray(PIL.Image.open(io.BytesIO(photo)))
    turned = PIL.Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    turned.getexif()[0x0112] = 6  # Shown after a quarter turn clockwise.
    (output,) = client.upscale("esrgan-flowers", turned)
    assert np.array_equal(output, client.upscale("esrgan-flowers", upright)[0])


def test_only_masked_pixels_are_filled(client, photo):
    (large,) = client.upscale("esrgan-flowers", photo)
    mask = np.zeros((128, 128), bool)
    mask[30:70, 20:80] = True
    (filled,) = client.inpaint("inpaint-flowers", large, mask=mask)
    (boxed,) = client.inpaint("inpaint-flowers", large, boxes=[[20, 30, 60, 40]])
    assert np.array_equal(filled, boxed)
    assert np.array_equal(np.asarray(filled)[~mask], np.asarray(large)[~mask])
    assert not np.array_equal(filled, large)
    samples = {"model": "biggan-flowers", "seed": 9}
    (sampled,) = client.inpaint("inpaint-flowers", samples=samples, mask=mask[:32, :32])
    assert sampled.size == (32, 32)


def test_gray_images_are_colorized_and_directions_chosen(client, photo):
    gray = PIL.Image.open(io.BytesIO(photo)).convert("L")
    (colored,) = client.colorize("colorize-flowers", gray)
    assert (colored.mode, colored.provenance.parameters["task"]) == ("RGB", "colorize")
    (turned,) = client.translate("cyclegan-emoji", photo, direction="fluent-to-noto")
    assert turned.provenance.parameters["direction"] == "fluent-to-noto"


def test_unusable_images_are_errors(client, photo, tmp_path):
    with pytest.raises(InvalidImage) as raised:
        client.upscale("esrgan-flowers", b"no image")
    assert (raised.value.kind, raised.value.field) == ("not-a-picture", "image.0")
    with pytest.raises(ValueError, match=r"expected pixels uint8 .* got float64 \[4, 4\]"):
        client.upscale("esrgan-flowers", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"image.convert\('RGB'\)"):
        client.upscale("esrgan-flowers", PIL.Image.new("CMYK", (4, 4)))
    with pytest.raises(ValueError, match="expected either an image or samples"):
        client.upscale("esrgan-flowers")
    with pytest.raises(FileNotFoundError):
        client.upscale("esrgan-flowers", tmp_path / "missing.png")
    with pytest.raises(TypeError, match="expected an image"):
        client.upscale("esrgan-flowers", 7)
    with pytest.raises(InvalidRequest, match="mask"):
        client.inpaint("inpaint-flowers", photo)
