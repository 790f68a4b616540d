import json
import re

import pytest

from service.runtime.models.manifest import MANIFEST_FILE, Manifest, ManifestError, read_manifest


@pytest.fixture
def folder(models):
    return models / "dcgan-fashion" / "1"


def edit(folder, **changes):
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_json_round_trip(folder):
    manifest = read_manifest(folder)
    assert Manifest.model_validate_json(manifest.to_json()) == manifest


def test_digest_depends_on_graphs_not_on_summary_or_license(folder):
    before = read_manifest(folder).digest
    edit(folder, summary="other words", license="MIT")
    assert read_manifest(folder).digest == before
    graphs = json.loads((folder / MANIFEST_FILE).read_text())["graphs"]
    graphs["generator"]["sha256"] = "0" * 64
    edit(folder, graphs=graphs)
    assert read_manifest(folder).digest != before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"color": "blue"}, "color"),
        ({"name": "../escape"}, "name"),
        ({"graphs": {}}, "graphs"),
        ({"graphs": {"generator": {"file": "/etc/passwd.onnx"}}}, "graphs.generator.file"),
        ({"task": "juggle"}, "task"),
        ({"latent": None}, "needs a latent space"),
        ({"classes": ["a", "b"]}, "takes class_weights or class_index"),
        ({"image": {"height": 0, "width": 28, "channels": 1}}, "image.height"),
        ({"image": {"height": 28, "width": 28, "channels": 2}}, "image.channels"),
    ],
)
def test_invalid_manifest_error_names_the_key(folder, changes, named):
    edit(folder, **changes)
    with pytest.raises(ManifestError, match=named.replace(".", r"\.")) as error:
        read_manifest(folder)
    assert "\n" not in str(error.value)


def test_unreadable_manifest_gives_one_line_error(folder):
    (folder / MANIFEST_FILE).write_bytes(b"\xff\x00{")
    with pytest.raises(ManifestError, match="not a valid manifest"):
        read_manifest(folder)
    (folder / MANIFEST_FILE).unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(folder)


def drop_graph(role):
    return lambda manifest: manifest["graphs"].pop(role)


def set_inputs(role, *names):
    return lambda manifest: manifest["graphs"][role].update(inputs=names)


@pytest.mark.parametrize(
    ("model", "change", "reason"),
    [
        ("painted", drop_graph("mapping"), "'mapping' and 'synthesis'; got synthesis"),
        (
            "painted",
            lambda m: m.pop("styles"),
            "styles is required if and only if there are graphs",
        ),
        ("painted", set_inputs("synthesis", "w", "truncation"), "must take w, alone"),
        ("painted", set_inputs("mapping", "w"), "must take z"),
        ("painted", set_inputs("mapping", "z", "truncation"), "takes truncation"),
        (
            "painted-classes",
            set_inputs("mapping", "z", "class_index"),
            "takes truncation",
        ),
        (
            "painted-classes",
            set_inputs("mapping", "z", "truncation"),
            "takes class_weights or class_index",
        ),
        ("cut", set_inputs("generator", "z", "class_index"), "takes truncation"),
        ("cut", lambda m: m["latent"].pop("truncation"), "takes truncation"),
        ("cut", lambda m: m["latent"].update(distribution="cauchy"), "latent.distribution"),
        ("cut", lambda m: m["latent"]["truncation"].update(default=2), "2 is not in 0 to 1.5"),
        ("cut", lambda m: m["latent"]["truncation"].update(maximum="inf"), "latent.truncation"),
    ],
)
def test_refuses_inconsistent_graphs(drawn_repository, tmp_path, model, change, reason):
    manifest = json.loads((drawn_repository / model / "1" / MANIFEST_FILE).read_text())
    change(manifest)
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match=re.escape(reason)):
        read_manifest(tmp_path)


ADDITIONS = {
    "directions": {
        "sha256": "0" * 64,
        "items": [
            {"name": "width", "space": "z", "method": "sefa", "description": "component 1 of SeFa"}
        ],
    },
    "encoder": {"passes": 3, "start": "", "trained_images": 1000, "seconds": 60},
    "discriminator": {"description": "trained with the generator"},
}


def with_additions(folder):
    graphs = json.loads((folder / MANIFEST_FILE).read_text())["graphs"]
    classes = [name for name in graphs["generator"]["inputs"] if name.startswith("class_")]
    added = {
        "encoder": (["image", "reconstruction", "z", *classes], "new_z"),
        "discriminator": (["image", *classes], "score"),
    }
    for role, (inputs, output) in added.items():
        entry = {"file": f"{role}.onnx", "sha256": "0" * 64}
        graphs[role] = {**entry, "inputs": inputs, "outputs": [output]}
    return ADDITIONS | {"graphs": graphs}


def test_digest_does_not_depend_on_additions(folder):
    before = read_manifest(folder).digest
    edit(folder, **with_additions(folder))
    manifest = read_manifest(folder)
    assert manifest.added_roles == ("encoder", "discriminator")
    assert (manifest.latent_space_name, manifest.latent_dimension) == (
        "z",
        manifest.latent.dimension,
    )
    assert manifest.digest == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda values: values["graphs"].pop("encoder"), "encoder is required"),
        (lambda values: values.update(discriminator=None), "discriminator is required"),
        (
            lambda values: values["graphs"]["discriminator"].update(inputs=["z"]),
            "must take .*image, and return score",
        ),
        (
            lambda values: values["directions"]["items"][0].update(space="w"),
            "layers is required if and only if space is w",
        ),
        (
            lambda values: values["directions"]["items"][0].update(space="w", layers=[9]),
            "width: the model has 0 style layers",
        ),
        (
            lambda values: values["directions"]["items"].append(values["directions"]["items"][0]),
            "different names",
        ),
        (lambda values: values["directions"]["items"][0].update(name="12"), "name: .*pattern"),
    ],
)
def test_refuses_additions_that_do_not_fit(folder, change, named):
    values = json.loads(json.dumps(with_additions(folder)))
    change(values)
    edit(folder, **values)
    with pytest.raises(ManifestError, match=named):
        read_manifest(folder)
