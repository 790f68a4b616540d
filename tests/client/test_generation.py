"""Images from the real service, bit for bit, by every method that generates."""

import io
import pickle

import av
import numpy as np
import PIL.Image
import pytest

from ganymede_client import Image, Images, InvalidRequest, Source
from tests.support.servers import wait_until


def served(service, **body) -> np.ndarray:
    """The pixels that the service itself returns, without the client."""
    with service.client() as http:
        response = http.post("/v1/generate", json={**body, "format": "npy"}).raise_for_status()
    return np.load(io.BytesIO(response.content))


def test_images_are_pillow_images_with_provenance(service, client):
    images = client.generate("stylegan2-flowers", seeds=[1, 2], truncation=0.7)
    assert isinstance(images, Images)
    assert all(isinstance(image, PIL.Image.Image) for image in images)
    model = client.model("stylegan2-flowers")
    for image, seed in zip(images, [1, 2], strict=True):
        provenance = image.provenance
        assert provenance.model == "stylegan2-flowers@1"
        assert provenance.digest == model.digest
        assert provenance.seed == seed
        assert provenance.class_ == model.classes[seed % len(model.classes)]
        assert provenance.truncation == 0.7
        wait_until(lambda request=provenance.request_id: request in service.logged())


@pytest.mark.parametrize("model", ["dcgan-fashion", "biggan-flowers"])
def test_pixels_are_those_of_the_service(service, client, model):
    images = client.generate(model, seeds=(3, 7, 4294967295))
    assert np.array_equal(images.numpy(), served(service, model=model, seeds=[3, 7, 4294967295]))


def test_address_of_an_image_returns_the_same_file(service, client):
    for image in client.generate("stylegan2-flowers", seeds=[5], class_=["roses"], truncation=0.5):
        with service.client() as http:
            assert http.get(image.url).raise_for_status().content == image.file
        assert client.image("stylegan2-flowers@1", 5, class_="roses", truncation=0.5).file == (
            image.file
        )
        assert client.image_url(
            "stylegan2-flowers", 5, version="1", class_="roses", truncation=0.5
        ) == (image.url)


def test_images_without_an_address_have_no_url(client):
    (blend,) = client.generate("stylegan2-flowers", seed=1, blend={"roses": 1, "tulips": 1})
    assert blend.url is None
    assert blend.provenance.parameters["blend"] == {"roses": 0.5, "tulips": 0.5}


def test_numpy_values_and_ranges_are_accepted(client):
    seeds = [image.seed for image in client.generate("gan-mnist", seeds=np.arange(2, 5))]
    assert seeds == client.generate("gan-mnist", seeds=range(2, 5)).seeds == [2, 3, 4]
    (image,) = client.generate(
        "stylegan2-flowers", seed=np.int64(7), truncation=np.float64(0.25), class_=np.int64(2)
    )
    assert (image.seed, image.provenance.truncation) == (7, 0.25)


def test_latents_and_styles_make_a_round_trip(client):
    (image,) = client.generate("stylegan2-flowers", seed=7, class_="roses", return_=["z", "w"])
    z, w = image.arrays["z"], image.arrays["w"]
    assert np.array_equal(z, np.random.RandomState(7).randn(1, 128)[0].astype("f4"))
    (from_w,) = client.generate("stylegan2-flowers", w=w[None])
    (from_z,) = client.generate("stylegan2-flowers", z=[z], class_="roses")
    assert np.array_equal(image, from_w)
    assert np.array_equal(image, from_z)
    assert from_z.url is None


def test_sources_may_be_seeds_objects_mappings_and_images(client):
    (first,) = client.generate("stylegan2-flowers", seed=1, class_="roses", truncation=0.5)
    sources = [3, Source(seed=4, class_="tulips"), {"seed": 5, "class_": "daisy"}, first]
    images = client.generate("stylegan2-flowers", images=sources)
    assert images.seeds == [3, 4, 5, 1]
    assert np.array_equal(images[3], first)
    with pytest.raises(ValueError, match="is no source for biggan-flowers"):
        client.generate("biggan-flowers", images=[first])


def test_lossy_and_other_formats_keep_provenance(client):
    for image_format in ("webp", "jpeg"):
        images = client.generate("cgan-fashion", seeds=[1, 2], class_="bag", format=image_format)
        assert [image.format.lower() for image in images] == [image_format] * 2
        assert [image.provenance.class_ for image in images] == ["bag", "bag"]
        (single,) = client.generate("cgan-fashion", seed=1, class_="bag", format=image_format)
        assert single.file == images[0].file
    exact = client.generate("biggan-flowers", seed=1)
    assert np.array_equal(exact[0], client.generate("biggan-flowers", seed=1, format="webp")[0])
    assert client.image("dcgan-fashion", 3, "webp").format == "WEBP"


def test_classes_are_sampled_balanced_counted_and_blended(client):
    balanced = client.sample_classes("cgan-fashion", per_class=2)
    assert len({image.provenance.class_ for image in balanced}) == 10
    assert (len(balanced), balanced.columns) == (20, 2)
    counted = client.sample_classes("cgan-fashion", classes={"sneaker": 2, "bag": 1}, seed=7)
    assert [image.provenance.class_ for image in counted] == ["sneaker", "sneaker", "bag"]
    assert counted.seeds == [7, 8, 9]
    blended = client.sample_classes("cgan-fashion", blend={"sneaker": 3, "bag": 1}, n=2, seed=7)
    assert blended[1].provenance.parameters["blend"] == {"sneaker": 0.75, "bag": 0.25}


def test_styles_mix_as_pairs_and_as_a_grid(client):
    mixed = client.mix_styles("stylegan2-flowers", [1, 2], [5, 6, 7], layers={"coarse": 1, 5: 0.5})
    parameters = [image.provenance.parameters for image in mixed]
    pairs = [(each["row"]["seed"], each["column"]["seed"]) for each in parameters]
    assert pairs == [(1, 5), (1, 6), (1, 7), (2, 5), (2, 6), (2, 7)]
    assert mixed.columns == 3
    assert "2 × 7</figcaption>" in mixed._repr_html_()
    grid = client.mix_styles_grid(
        "stylegan2-flowers", [1, 2], [5, 6, 7], layers={"coarse": 1, 5: 0.5}
    )
    assert np.array_equal(np.asarray(grid)[32:64, 32:64], mixed[0])
    with pytest.raises(ValueError, match="expected an image with a seed, z or w"):
        client.generate("stylegan2-flowers", images=[mixed[0]])


def test_interpolation_returns_frames_and_an_animation(client):
    frames = client.interpolate("stylegan2-flowers", [1, 2], frames=5, class_="roses")
    (start, end) = client.generate("stylegan2-flowers", seeds=[1, 2], class_="roses")
    assert np.array_equal(frames[0], start)
    assert np.array_equal(frames[-1], end)
    assert frames[2].provenance.parameters["at"] == 0.5
    for kind in ("webp", "gif", "png"):
        walk = client.animate(
            "stylegan2-flowers", [1, 2], frames=5, class_="roses", fps=10, format=kind
        )
        assert walk.image().n_frames == 5
        assert walk.provenance.parameters["fps"] == 10
        assert "data:image/" in walk._repr_html_()


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_animation_can_be_a_video(client, kind, tmp_path):
    walk = client.animate(
        "dcgan-fashion", [1, 2], frames=5, fps=10, scale=2, quality=90, format=kind
    )
    assert walk.media_type == f"video/{kind}"
    assert walk.provenance.parameters["scale"] == 2
    assert walk.provenance.parameters["quality"] == 90
    assert f'<video src="data:video/{kind};base64,' in walk._repr_html_()
    walk.save(tmp_path / f"walk.{kind}")
    with av.open(tmp_path / f"walk.{kind}") as film:
        sizes = [(frame.width, frame.height) for frame in film.decode(video=0)]
    assert sizes == [(56, 56)] * 5
    with pytest.raises(ValueError, match="Pillow does not read"):
        walk.image()


def test_prompts_are_classes_and_seeds(client):
    images = client.generate_from_prompt("cgan-fashion", "sneaker", n=2, seed=7)
    again = client.generate("cgan-fashion", seeds=[7, 8], class_="sneaker")
    assert [image.file for image in images] == [image.file for image in again]
    assert images[0].provenance == again[0].provenance
    assert images[0].provenance != again[1].provenance
    assert images[0].provenance.request_id != again[0].provenance.request_id


def test_graphs_run_on_arrays(service, client):
    z = np.random.RandomState(7).randn(1, 100)
    outputs = client.infer("dcgan-fashion", {"z": z})
    assert np.array_equal(outputs["pixels"], served(service, model="dcgan-fashion", seed=7))
    assert client.graph("dcgan-fashion")["inputs"][0]["name"] == "z"
    assert client.graph_config("dcgan-fashion", version="1")["backend"] == "onnxruntime"
    assert {"name": "dcgan-fashion", "version": "1", "state": "READY", "reason": ""} in (
        client.graphs(ready=True)
    )
    assert client.inference_server()["name"] == "ganymede"
    states = [client.inference_live(), client.inference_ready(), client.graph_ready("gan-mnist")]
    assert states == [True, True, True]


def test_pickled_images_keep_pixels_and_provenance(client):
    images = client.generate("biggan-flowers", seeds=[1, 2])
    images[0].load()
    for image, copy in zip(images, pickle.loads(pickle.dumps(list(images))), strict=True):
        assert isinstance(copy, Image)
        assert np.array_equal(image, copy)
        assert (copy.provenance, copy.file) == (image.provenance, image.file)


def test_invalid_values_are_refused_before_a_request(client):
    with pytest.raises(ValueError, match="not JSON compliant"):
        client.generate("stylegan2-flowers", seed=1, truncation=float("nan"))
    with pytest.raises(ValueError, match="finite"):
        client.generate("dcgan-fashion", z=[np.full(100, 1e39)])
    with pytest.raises(ValueError, match="one for each image"):
        client.generate("dcgan-fashion", z=np.zeros(100))
    with pytest.raises(TypeError, match="cannot contain a set"):
        client.generate("dcgan-fashion", seeds={1, 2})
    with pytest.raises(ValueError, match="requires the format png"):
        client.generate("dcgan-fashion", seed=1, return_=["z"], format="webp")
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        client.generate("dcgan-fashion", sed=1)


def test_truncation_that_a_model_does_not_support_is_an_error(client):
    with pytest.raises(InvalidRequest, match="dcgan-fashion does not support truncation") as raised:
        client.generate("dcgan-fashion", seeds=[1, 2], truncation=0.7)
    assert raised.value.field == "truncation"


def test_rank_keeps_the_best_and_returns_their_scores(service, client):
    plain = client.generate("stylegan2-flowers", n=5, seed=7)
    best = client.generate("stylegan2-flowers", n=5, seed=7, rank=0.25)
    assert [each.provenance.class_ for each in best] == [each.provenance.class_ for each in plain]
    assert all(7 <= image.seed < 27 for image in best)
    assert all(isinstance(image.score, float) for image in best)
    assert pickle.loads(pickle.dumps(best[0])).score == best[0].score
    assert all(image.score is None for image in plain)
    with service.client() as http:
        assert http.get(best[0].url).raise_for_status().content == best[0].file
    drawn = client.sample_classes(
        "stylegan2-flowers",
        classes={"roses": 2},
        seed=7,
        rank={"share": 0.2, "method": "rejection"},
    )
    assert [image.provenance.class_ for image in drawn] == ["roses", "roses"]
    assert client.model("stylegan2-flowers").discriminator["figures"]


def test_rank_of_a_model_without_discriminator(client):
    with pytest.raises(InvalidRequest, match="has no discriminator"):
        client.generate("dcgan-fashion", rank=0.5)
