import json
import re

import optuna
import pytest
from optuna.trial import TrialState

from tests.support.command import assert_one_line_error, run
from tests.support.tiny_recipes import TINY
from tests.training.cli.test_evaluate import assert_self_contained
from training.evaluation.search import study as searching
from training.evaluation.search.ranges import SearchRange, as_yaml
from training.evaluation.search.study import Confirmation, SearchError, search
from training.recipe.schema import RecipeError, load_recipe
from training.run import Run

RATE = "optimizer.generator.learning_rate"


@pytest.fixture
def small(digits, small_network_file):
    """Overrides that make a trial of gan-mnist a matter of a second."""
    return [
        *TINY["gan-mnist"],
        f"data.path={digits}",
        "train.images=1920",
        f"evaluate={{every_images: 640, samples: 60, network: {small_network_file}}}",
        f"search={{{RATE}: {{low: 0.00001, high: 0.01, log: true}}}}",
    ]


def study_of(folder) -> optuna.Study:
    return optuna.load_study(
        study_name=searching.STUDY, storage=f"sqlite:///{(folder / 'search.db').resolve()}"
    )


def test_the_recipe_itself_is_the_first_trial_and_the_best_is_confirmed(tmp_path, small):
    found = search("gan-mnist", small, tmp_path, trials=5, confirm=1)
    assert found.trials[0].values == {RATE: 2e-4}
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3, 4]
    assert len({trial.values[RATE] for trial in found.trials}) == 5
    assert all(1e-5 <= trial.values[RATE] <= 1e-2 for trial in found.trials)
    whole = [trial for trial in found.trials if trial.state == "complete"]
    assert found.best.figure == min(trial.figure for trial in whole)
    for trial in whole:
        figures = [
            entry["kernel_distance"]
            for entry in Run(tmp_path / trial.folder).read_log()
            if "kernel_distance" in entry
        ]
        assert (len(figures), min(figures)) == (3, trial.figure)
    if found.best.number:
        assert len(found.confirmation.best) == len(found.confirmation.recipe) == 1
        assert (tmp_path / "confirm" / "recipe-seed-1" / "checkpoint.pt").exists()
    written = json.loads((tmp_path / "search.json").read_text())
    assert written["verdict"] == found.verdict
    page = (tmp_path / "search.html").read_text()
    assert_self_contained(page)
    assert len(re.findall("<circle", page)) >= len(whole)
    assert "the recipe itself" in page


def test_a_search_goes_on_where_it_was_stopped(tmp_path, small, monkeypatch):
    played = []
    real = searching.train

    def train(recipe, run, watch=None):
        played.append(run.folder.name)
        if len(played) == 2:
            # As if the process had been killed in the second trial, after its first evaluation.
            def killed(images, figures):
                watch(images, figures)
                raise KeyboardInterrupt

            return real(recipe, run, killed)
        return real(recipe, run, watch)

    monkeypatch.setattr(searching, "train", train)
    with pytest.raises(KeyboardInterrupt):
        search("gan-mnist", small, tmp_path, trials=3, confirm=0)
    stopped = study_of(tmp_path).trials[1]
    assert stopped.state == TrialState.RUNNING
    found = search("gan-mnist", small, tmp_path, trials=3, confirm=0)
    # The trial that was under way is played again, by the same values and in the same folder.
    assert played[:3] == ["0000", "0001", "0001"]
    assert found.trials[1].values == stopped.params
    assert len(found.trials) == 3
    before = len(played)
    assert search("gan-mnist", small, tmp_path, trials=3, confirm=0).trials == found.trials
    assert len(played) == before
    assert len(search("gan-mnist", small, tmp_path, trials=4, confirm=0).trials) == 4


def test_a_trial_that_falls_behind_is_ended_and_the_recipe_never(tmp_path, small, monkeypatch):
    ended = []

    class Strict(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            ended.append(trial.number)
            return True

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: Strict())
    found = search("gan-mnist", small, tmp_path, trials=3, confirm=2)
    assert [trial.state for trial in found.trials] == ["complete", "pruned", "pruned"]
    assert [trial.images for trial in found.trials] == [1920, 640, 640]
    assert ended == [1, 2]
    assert found.best.number == 0
    assert found.confirmation is None
    assert found.verdict == "no trial was better than the recipe's own values"


def test_a_trial_that_diverges_ends_and_the_search_does_not(tmp_path, small):
    wild = "optimizer.discriminator.learning_rate"
    ranges = f"search={{{wild}: {{choices: [0.0002, 1.0e+30]}}}}"
    squares = "game.loss=least_squares"
    found = search("gan-mnist", [*small, squares, ranges], tmp_path, trials=6, confirm=0)
    states = {trial.values[wild]: trial.state for trial in found.trials}
    assert states == {0.0002: "complete", 1e30: "diverged"}


def test_searches_that_cannot_be_made_are_refused(tmp_path, small):
    def refused(*overrides, kind=SearchError, match):
        with pytest.raises(kind, match=match):
            search("gan-mnist", [*small, *overrides], tmp_path / "s", trials=1, confirm=0)

    refused("search={}", match="declares no ranges")
    refused("search={game.loss: {choices: [hinge, minimax]}}", match="own game.loss .* outside")
    refused("search={game.lose: {choices: [1, 2]}}", match="the recipe has no game.lose")
    refused("search={data: {choices: [1, 2]}}", match="not one value")
    refused(f"search={{{RATE}: {{low: -1, high: 1}}}}", kind=RecipeError, match="greater than 0")
    refused(f"search={{{RATE}: {{low: 1, high: 0}}}}", kind=RecipeError, match="a larger high")
    refused(f"search={{{RATE}: {{low: 0, high: 1, log: true}}}}", kind=RecipeError, match="log")
    search("gan-mnist", small, tmp_path / "s", trials=1, confirm=0)
    refused("train.batch=32", match="holds a search of another recipe")


def test_values_survive_yaml():
    import yaml

    for value in (1e-5, 3e-4, 1e30, 0.5, 7, True, False, "hinge", "it's", "1e-5", "null"):
        read = yaml.safe_load(as_yaml(value))
        assert read == value
        assert type(read) is type(value)


def test_ranges_of_whole_numbers_and_choices_hold_what_they_say():
    numbers = SearchRange(low=1, high=5)
    assert (numbers.holds(5), numbers.holds(6), numbers.holds(True)) == (True, False, False)
    names = SearchRange(choices=("hinge", "minimax"))
    assert (names.holds("hinge"), names.holds("wasserstein")) == (True, False)


@pytest.mark.parametrize(
    ("own", "best", "says"),
    [
        ((0.3, 0.4), (0.1, 0.2), "better than the recipe with every seed"),
        ((0.1, 0.6), (0.2, 0.3), "better on average, and not with every seed"),
        ((0.1, 0.2), (0.2, 0.3), "no better than the recipe"),
    ],
)
def test_a_confirmation_says_no_more_than_it_shows(own, best, says):
    assert says in Confirmation(seeds=(1, 2), reference="x", recipe=own, best=best).verdict


def test_the_shipped_ranges_hold_their_recipes_values():
    for name in ("gan-mnist", "dcgan-fashion"):
        recipe = load_recipe(name)
        assert len(recipe.search) == 2
        searching._base(name, [])


def test_the_command_prints_the_verdict(tmp_path, small):
    out = tmp_path / "out"
    done = run("search", "gan-mnist", *small, "--trials", "1", "--confirm", "0", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "no trial was better than the recipe's own values" in done.stdout
    done = run(
        *("search", "gan-mnist", *small, "--trials", "1", "--confirm", "0", "--out", out, "--json")
    )
    assert json.loads(done.stdout)["best"]["values"] == {RATE: 2e-4}
    done = run("search", "gan-mnist", "search={}", "--out", out)
    assert_one_line_error(done, 2, "declares no ranges")


def of_pictures(folder, network, name, *more):
    """Overrides that make a trial of a recipe from pictures a matter of a second."""
    if name == "cyclegan-emoji":
        taken = {"path": folder, "resolution": 16, "name": "null"}
        taken |= dict.fromkeys(("only", "hold_out", "half"), "null")
        small = [f"{key}.{each}={taken[each]}" for key in ("data", "source") for each in taken]
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


def test_a_search_may_go_by_a_figure_of_which_more_is_better(
    tmp_path, photographs, small_network_file
):
    # The recipe hardly learns, and the other choice does.
    slow = [f"{RATE}=0.000001", f"search={{{RATE}: {{choices: [0.000001, 0.0005]}}}}"]
    given = of_pictures(photographs, small_network_file, "srgan-flowers", *slow)
    found = search("srgan-flowers", [*given, "evaluate.metric=psnr"], tmp_path, trials=6, confirm=1)
    assert study_of(tmp_path).direction == optuna.study.StudyDirection.MAXIMIZE
    whole = [trial for trial in found.trials if trial.state == "complete"]
    assert found.best.figure == max(trial.figure for trial in whole)
    for trial in whole:
        log = Run(tmp_path / trial.folder).read_log()
        assert max(entry["psnr"] for entry in log if "psnr" in entry) == trial.figure
    assert found.best.values == {RATE: 5e-4}
    assert found.confirmation.reference == f"{photographs.name}, split test"
    assert found.confirmation.best[0] > found.confirmation.recipe[0]
    assert "better than the recipe with every seed" in found.verdict
    assert "more is better" in (tmp_path / "search.html").read_text()


def test_a_search_between_two_sets_is_confirmed_by_held_out_pictures(
    tmp_path, photographs, small_network_file
):
    given = of_pictures(photographs, small_network_file, "cyclegan-emoji")
    found = search("cyclegan-emoji", given, tmp_path, trials=1, confirm=0)
    assert found.metric == "kernel_distance"
    recipe = load_recipe("cyclegan-emoji", given)
    run = Run(tmp_path / "trials" / "0000")
    figure, title = searching._held_out_figure(run, recipe)
    assert title == f"{photographs.name}, split test"
    known = [e["kernel_distance"] for e in run.read_log() if "kernel_distance" in e]
    assert len(known) == 3
    assert figure not in known


def test_what_is_confirmed_is_the_metric_that_was_searched_by(tmp_path, small):
    search("gan-mnist", small, tmp_path, trials=1, confirm=0)
    run = Run(tmp_path / "trials" / "0000")
    for metric in ("kernel_distance", "frechet_distance"):
        (*_, last) = (entry[metric] for entry in run.read_log() if metric in entry)
        recipe = load_recipe("gan-mnist", [*small, f"evaluate.metric={metric}"])
        # There are no held-out pictures, and other samples.
        figure, _ = searching._held_out_figure(run, recipe)
        assert figure == pytest.approx(last, rel=0.3), metric


def test_a_confirmation_knows_when_more_is_better():
    found = Confirmation(seeds=(1,), metric="ssim", reference="x", recipe=(0.2,), best=(0.3,))
    assert "better than the recipe with every seed" in found.verdict
    found = Confirmation(seeds=(1,), metric="ssim", reference="x", recipe=(0.3,), best=(0.2,))
    assert "no better than the recipe" in found.verdict
