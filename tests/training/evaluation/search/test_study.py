import json

import optuna
import pytest
from optuna.trial import TrialState

from tests.support.html import assert_self_contained
from tests.support.tiny_recipes import TINY
from training.evaluation.search import study as search_study
from training.evaluation.search.study import SearchError, search
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run

RATE = "optimizer.generator.learning_rate"


@pytest.fixture
def small(digits, small_network_file):
    """Overrides for gan-mnist that reduce a trial to about a second."""
    return [
        *TINY["gan-mnist"],
        f"data.path={digits}",
        "train.images=1920",
        f"evaluate={{every_images: 640, samples: 60, network: {small_network_file}}}",
        f"search={{{RATE}: {{low: 0.00001, high: 0.01, log: true}}}}",
    ]


def study_of(folder) -> optuna.Study:
    return optuna.load_study(
        study_name=search_study.STUDY, storage=f"sqlite:///{(folder / 'search.db').resolve()}"
    )


@pytest.mark.slow
def test_first_trial_is_the_recipe_and_best_is_confirmed(tmp_path, small):
    result = search("gan-mnist", small, tmp_path, trials=5, confirm=1)
    assert result.trials[0].values == {RATE: 2e-4}
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3, 4]
    assert len({trial.values[RATE] for trial in result.trials}) == 5
    assert all(1e-5 <= trial.values[RATE] <= 1e-2 for trial in result.trials)
    complete = [trial for trial in result.trials if trial.state == "complete"]
    assert result.best.figure == min(trial.figure for trial in complete)
    for trial in complete:
        figures = [
            entry["kernel_distance"]
            for entry in Run(tmp_path / trial.folder).read_log()
            if "kernel_distance" in entry
        ]
        assert (len(figures), min(figures)) == (3, trial.figure)
    if result.best.number:
        assert len(result.confirmation.best) == len(result.confirmation.recipe) == 1
        assert (tmp_path / "confirm" / "recipe-seed-1" / "checkpoint.pt").exists()
    written = json.loads((tmp_path / "search.json").read_text())
    assert written["verdict"] == result.verdict
    page = (tmp_path / "search.html").read_text()
    assert_self_contained(page)
    assert "<svg" in page
    assert "the recipe itself" in page


def test_interrupted_search_continues(tmp_path, small, monkeypatch):
    folders = []
    train_trial = search_study.train

    def train(recipe, run, on_evaluation=None):
        folders.append(run.folder.name)
        if len(folders) == 2:
            # Interrupt the second trial after its first evaluation.
            def interrupt(images, figures):
                on_evaluation(images, figures)
                raise KeyboardInterrupt

            return train_trial(recipe, run, interrupt)
        return train_trial(recipe, run, on_evaluation)

    monkeypatch.setattr(search_study, "train", train)
    with pytest.raises(KeyboardInterrupt):
        search("gan-mnist", small, tmp_path, trials=3, confirm=0)
    interrupted = study_of(tmp_path).trials[1]
    assert interrupted.state == TrialState.RUNNING
    result = search("gan-mnist", small, tmp_path, trials=3, confirm=0)
    # The interrupted trial is continued with the same values in the same folder.
    assert folders[:3] == ["0000", "0001", "0001"]
    assert result.trials[1].values == interrupted.params
    assert len(result.trials) == 3
    before = len(folders)
    assert search("gan-mnist", small, tmp_path, trials=3, confirm=0).trials == result.trials
    assert len(folders) == before
    assert len(search("gan-mnist", small, tmp_path, trials=4, confirm=0).trials) == 4


def test_prunes_bad_trials_but_not_the_recipe_trial(tmp_path, small, monkeypatch):
    pruned = []

    class Strict(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            pruned.append(trial.number)
            return True

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: Strict())
    result = search("gan-mnist", small, tmp_path, trials=3, confirm=2)
    assert [trial.state for trial in result.trials] == ["complete", "pruned", "pruned"]
    assert [trial.images for trial in result.trials] == [1920, 640, 640]
    assert pruned == [1, 2]
    assert result.best.number == 0
    assert result.confirmation is None
    assert result.verdict == "no trial was better than the recipe's own values"


@pytest.mark.slow
def test_search_continues_after_a_diverged_trial(tmp_path, small):
    rate = "optimizer.discriminator.learning_rate"
    ranges = f"search={{{rate}: {{choices: [0.0002, 1.0e+30]}}}}"
    squares = "game.loss=least_squares"
    result = search("gan-mnist", [*small, squares, ranges], tmp_path, trials=6, confirm=0)
    states = {trial.values[rate]: trial.state for trial in result.trials}
    assert states == {0.0002: "complete", 1e30: "diverged"}


def test_rejects_invalid_searches(tmp_path, small):
    def rejects(*overrides, kind=SearchError, match):
        with pytest.raises(kind, match=match):
            search("gan-mnist", [*small, *overrides], tmp_path / "s", trials=1, confirm=0)

    rejects("search={}", match="declares no ranges")
    rejects(
        "search={game.loss: {choices: [hinge, minimax]}}",
        match="own game.loss .* outside",
    )
    rejects("search={game.lose: {choices: [1, 2]}}", match="the recipe has no game.lose")
    rejects("search={data: {choices: [1, 2]}}", match="not a single value")
    rejects(f"search={{{RATE}: {{low: -1, high: 1}}}}", kind=RecipeError, match="greater than 0")
    rejects(f"search={{{RATE}: {{low: 1, high: 0}}}}", kind=RecipeError, match="low < high")
    rejects(f"search={{{RATE}: {{low: 0, high: 1, log: true}}}}", kind=RecipeError, match="log")
    search("gan-mnist", small, tmp_path / "s", trials=1, confirm=0)
    rejects("train.batch=32", match="contains a search of another recipe")


@pytest.mark.parametrize("name", ["gan-mnist", "dcgan-fashion"])
def test_shipped_ranges_contain_the_recipes_values(name):
    recipe = load_recipe(name)
    assert len(recipe.search) == 2
    search_study._base(name, [])


def image_to_image_overrides(folder, network, name, *more):
    """Return overrides that reduce a trial of an image-to-image recipe to about a second."""
    if name == "cyclegan-emoji":
        data = {"path": folder, "resolution": 16, "name": "null"}
        data |= dict.fromkeys(("only", "hold_out", "half"), "null")
        small = [f"{key}.{each}={data[each]}" for key in ("data", "source") for each in data]
    else:
        small = [f"data.path={folder}", "data.resolution=32", "data.name=null"]
    return [
        *small,
        *("generator.width=4", "generator.blocks=1", "discriminator.width=4"),
        *("train.batch=4", "train.images=48", "train.log_images=16"),
        f"evaluate={{every_images: 16, samples: 40, network: {network}}}",
        f"search={{{RATE}: {{low: 0.00001, high: 0.01, log: true}}}}",
        *more,
    ]


@pytest.mark.slow
def test_maximizes_metrics_where_higher_is_better(tmp_path, photographs, small_network_file):
    # With its own learning rate, the recipe hardly improves.
    slow = [f"{RATE}=0.000001", f"search={{{RATE}: {{choices: [0.000001, 0.0005]}}}}"]
    overrides = image_to_image_overrides(photographs, small_network_file, "srgan-flowers", *slow)
    result = search(
        "srgan-flowers", [*overrides, "evaluate.metric=psnr"], tmp_path, trials=6, confirm=1
    )
    assert study_of(tmp_path).direction == optuna.study.StudyDirection.MAXIMIZE
    complete = [trial for trial in result.trials if trial.state == "complete"]
    assert result.best.figure == max(trial.figure for trial in complete)
    for trial in complete:
        log = Run(tmp_path / trial.folder).read_log()
        assert max(entry["psnr"] for entry in log if "psnr" in entry) == trial.figure
    assert result.best.values == {RATE: 5e-4}
    assert result.confirmation.reference == f"{photographs.name}, split test"
    assert result.confirmation.best[0] > result.confirmation.recipe[0]
    assert "better than the recipe with every seed" in result.verdict
    assert "higher is better" in (tmp_path / "search.html").read_text()


@pytest.mark.slow
def test_unpaired_search_is_confirmed_on_held_out_images(tmp_path, photographs, small_network_file):
    overrides = image_to_image_overrides(photographs, small_network_file, "cyclegan-emoji")
    result = search("cyclegan-emoji", overrides, tmp_path, trials=1, confirm=0)
    assert result.metric == "kernel_distance"
    recipe = load_recipe("cyclegan-emoji", overrides)
    run = Run(tmp_path / "trials" / "0000")
    figure, title = search_study._held_out_figure(run, recipe)
    assert title == f"{photographs.name}, split test"
    validated = [e["kernel_distance"] for e in run.read_log() if "kernel_distance" in e]
    assert len(validated) == 3
    assert figure not in validated


@pytest.mark.slow
def test_confirmation_uses_the_metric_of_the_search(tmp_path, small):
    search("gan-mnist", small, tmp_path, trials=1, confirm=0)
    run = Run(tmp_path / "trials" / "0000")
    for metric in ("kernel_distance", "frechet_distance"):
        *_, last = (entry[metric] for entry in run.read_log() if metric in entry)
        recipe = load_recipe("gan-mnist", [*small, f"evaluate.metric={metric}"])
        # There are no held-out images, so only the samples differ.
        figure, _ = search_study._held_out_figure(run, recipe)
        assert figure == pytest.approx(last, rel=0.3), metric
