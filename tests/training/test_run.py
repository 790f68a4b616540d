import json

import pytest

from service.runtime.models.parts.provenance import TrainingData
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run


@pytest.fixture
def recipe():
    return load_recipe("gan-mnist")


def test_run_keeps_its_recipe(tmp_path, recipe):
    run = Run(tmp_path / "run")
    run.open(recipe)
    assert Run(tmp_path / "run").recipe() == recipe


def test_resumed_run_can_be_longer_but_rejects_other_recipe(tmp_path, recipe):
    run = Run(tmp_path / "run")
    run.open(recipe)
    run.open(load_recipe("gan-mnist", ["train.images=9000000", "train.log_images=5"]))
    assert run.recipe().train.images == 9_000_000
    run.open(load_recipe("gan-mnist", ["train.seed=2"]))
    run.open(recipe)
    run.checkpoint_path.touch()
    with pytest.raises(RecipeError, match=r"train\.seed was 0, now 1"):
        run.open(load_recipe("gan-mnist", ["train.seed=1"]))
    with pytest.raises(RecipeError, match="another recipe"):
        run.open(load_recipe("dcgan-fashion"))


def test_rejects_folder_with_other_files(tmp_path, recipe):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RecipeError, match="neither empty nor a run folder"):
        Run(tmp_path).open(recipe)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_run_killed_at_start_can_start_again(tmp_path, recipe):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    (run.folder / ".recipe.yaml.123").write_text("incomplete")
    run.open(recipe)
    assert run.recipe() == recipe


def test_rejects_path_of_a_file(tmp_path, recipe):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RecipeError, match="is a file"):
        Run(tmp_path / "run").open(recipe)


def test_rewinds_log_to_checkpoint_and_drops_incomplete_line(tmp_path, recipe):
    run = Run(tmp_path / "run")
    run.open(recipe)
    for images in (100, 200, 300):
        run.log({"images": images})
    with run.log_path.open("a") as file:
        file.write('{"images": 4')
    run.rewind_log(200)
    assert [json.loads(line)["images"] for line in run.log_path.open()] == [100, 200]


def record(**changes) -> TrainingData:
    values = {"title": "own", "license": "unknown", "images": 60, "fingerprint": "a" * 64}
    return TrainingData(**values | changes)


@pytest.fixture
def resumed(tmp_path, recipe):
    run = Run(tmp_path / "run")
    run.open(recipe)
    run.save_provenance([record()], [], 0)
    run.checkpoint_path.touch()
    return run


def test_override_allows_other_values_but_no_other_networks(resumed):
    faster = load_recipe("gan-mnist", ["optimizer.generator.learning_rate=0.001"])
    with pytest.raises(RecipeError, match="with --override"):
        resumed.open(faster)
    (change,) = resumed.open(faster, override=True)
    assert str(change) == "optimizer.generator.learning_rate was 0.0002, now 0.001"
    wider = load_recipe("gan-mnist", ["generator.widths=[8]"])
    with pytest.raises(RecipeError, match=r"generator\.widths cannot change"):
        resumed.open(wider, override=True)


def test_refuses_other_images_and_accepts_the_same_at_another_path(resumed):
    assert resumed.check_data([record(title="moved")]) == []
    other = record(fingerprint="b" * 64, images=61)
    with pytest.raises(RecipeError, match=r"60 images.* now own, 61 images.*--override"):
        resumed.check_data([other])
    (change,) = resumed.check_data([other], override=True)
    resumed.save_provenance([other], [change], 640)
    resumed.save_provenance([other], [], 1280)
    provenance = resumed.provenance()
    assert provenance.data == (other,)
    assert [override.images for override in provenance.overrides] == [640]


def test_run_without_record_of_its_data_is_resumed_from_the_same_place_only(resumed):
    resumed.provenance_path.unlink()
    assert resumed.open(load_recipe("gan-mnist")) == []
    moved = load_recipe("gan-mnist", ["data.path=elsewhere"])
    with pytest.raises(RecipeError, match="data was mnist, now elsewhere"):
        resumed.open(moved)
    assert [str(change) for change in resumed.open(moved, override=True)] == [
        "data was mnist, now elsewhere"
    ]
    (change,) = resumed.check_data([record()])
    assert str(change).startswith("data was not recorded, now own, 60 images")


def test_damaged_record_is_named(resumed):
    resumed.provenance_path.write_text("{")
    with pytest.raises(RecipeError, match=r"provenance\.json is damaged"):
        resumed.check_data([record()])
