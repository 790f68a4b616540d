import json

import pytest

from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run


@pytest.fixture
def recipe():
    return load_recipe("gan-mnist")


def test_a_run_keeps_its_recipe(tmp_path, recipe):
    run = Run(tmp_path / "run")
    run.open(recipe)
    assert Run(tmp_path / "run").recipe() == recipe


def test_a_run_may_go_on_for_longer_but_not_as_another_experiment(tmp_path, recipe):
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


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, recipe):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RecipeError, match="neither empty nor a run folder"):
        Run(tmp_path).open(recipe)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_was_killed_while_it_began_can_begin_again(tmp_path, recipe):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    (run.folder / ".recipe.yaml.123").write_text("half of")
    run.open(recipe)
    assert run.recipe() == recipe


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path, recipe):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RecipeError, match="is a file"):
        Run(tmp_path / "run").open(recipe)


def test_the_log_is_rewound_to_the_checkpoint_and_a_torn_line_dropped(tmp_path, recipe):
    run = Run(tmp_path / "run")
    run.open(recipe)
    for images in (100, 200, 300):
        run.log({"images": images})
    with run.log_path.open("a") as file:
        file.write('{"images": 4')
    run.rewind_log(200)
    assert [json.loads(line)["images"] for line in run.log_path.open()] == [100, 200]
