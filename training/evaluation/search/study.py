"""The search for better hyperparameters: trials of a recipe in the ranges that it declares.

Every trial is a run of its own in ``trials/``, measured while it trains and ended early where
others were better by then. What is known lies in an SQLite file, so a search that was stopped goes
on. The best trial is not believed at once: it and the recipe are trained anew with other seeds, and
measured against pictures that neither the training nor the search has seen.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict

from service.runtime.errors import UserError
from service.runtime.files import replacing
from training.evaluation.during_training import Metric, called, cost, more_is_better
from training.evaluation.evaluation import EvaluationOptions, evaluate
from training.evaluation.features.networks import open_network
from training.evaluation.features.references import open_reference
from training.evaluation.image_to_image.targets import open_image_to_image_target
from training.evaluation.search.ranges import Value, as_yaml
from training.evaluation.search.report import write_search_report
from training.evaluation.targets import open_target
from training.evaluation.validation import picture_gauge
from training.monitoring.monitors import TrainingDiverged
from training.preview.image_to_image import made_by
from training.recipe.schema import Recipe, RecipeError, load_recipe
from training.run import Run
from training.trainer import train

STUDY = "search"
# Trials that see the whole of their training before others are held against them, and the share of
# it in which none is ended.
_STARTUP_TRIALS = 4
_WARM_UP = 0.25
# The samples that confirm a result are not those that chose it.
_CONFIRM_SEED = 1_000_000
_CONFIRM = {"samples": 2_000, "reference_samples": 10_000}
# What an evaluation calls what generators from noise are searched by.
_NAMES = {"kernel_distance": ("KID",), "frechet_distance": ("FD", "FID")}

Say = Callable[[str], None]


class SearchError(UserError):
    """A search cannot be made, or not there."""


class Trial(BaseModel):
    """One trial: its values, its figure, and how it ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    values: dict[str, Value]
    figure: float | None = None
    images: int = 0
    state: str
    folder: str


class Confirmation(BaseModel):
    """The recipe and the best trial, trained anew with other seeds: their figures, in pairs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: tuple[int, ...]
    metric: Metric = "kernel_distance"
    reference: str
    recipe: tuple[float, ...]
    best: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """What they say, in words."""
        means = [sum(each) / len(each) for each in (self.recipe, self.best)]
        by = f"{means[1]:.5f} against {means[0]:.5f} on average over {len(self.seeds)} seeds"
        recipe, best = ([cost(self.metric, v) for v in each] for each in (self.recipe, self.best))
        if max(best) < min(recipe):
            return f"the best trial is better than the recipe with every seed: {by}"
        if sum(best) < sum(recipe):
            return f"the best trial is better on average, and not with every seed: {by}"
        return f"the best trial is no better than the recipe, once seeds change: {by}"


class SearchResult(BaseModel):
    """All that a search has found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    metric: Metric
    ranges: dict[str, Any]
    trials: tuple[Trial, ...]
    best: Trial | None
    confirmation: Confirmation | None = None

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        if self.best is None:
            return "no trial has ended"
        if self.best.number == 0:
            return "no trial was better than the recipe's own values"
        if self.confirmation is None:
            return (
                f"trial {self.best.number} was better than the recipe in one run each, which is "
                "no proof: confirm it with other seeds"
            )
        return self.confirmation.verdict


def search(
    recipe: str,
    overrides: Sequence[str],
    out: Path,
    *,
    trials: int,
    confirm: int = 2,
    seed: int = 0,
    say: Say = lambda _: None,
) -> SearchResult:
    """Run trials of a recipe until `trials` have ended, the recipe's own values first.

    Then train the best one and the recipe with `confirm` other seeds. Writes ``search.json`` and
    ``search.html`` into `out`. Raises SearchError, RecipeError, and what training raises.
    """
    base = _base(recipe, overrides)
    study = _study(out, base, seed)
    _begin_again_what_was_stopped(study)
    own = {key: _value_of(base, key) for key in base.search}
    if not study.trials:
        study.enqueue_trial(own)
    while (ended := _ended(study)) < trials:
        # A fresh seed for every trial, or a search that goes on would draw the same values again.
        study.sampler = _sampler(seed + 1000 * len(study.trials))
        _play(study, base, [recipe, *overrides], out, say)
        if _ended(study) == ended:
            raise SearchError("a trial has not ended")
    found = _result(study, base)
    _write(out, found)
    if confirm and found.best and found.best.number:
        confirmation = _confirm(base, [recipe, *overrides], found.best, out, confirm, say)
        found = found.model_copy(update={"confirmation": confirmation})
        _write(out, found)
    return found


def _base(recipe: str, overrides: Sequence[str]) -> Recipe:
    """Return the recipe, with evaluations; look at every range before anything is trained."""
    base = load_recipe(recipe, overrides)
    if not base.search:
        raise SearchError(
            f"{recipe} declares no ranges: give it a section search, such as "
            "search: {optimizer.generator.learning_rate: {low: 0.00005, high: 0.002, log: true}}"
        )
    for key, given in base.search.items():
        own = _value_of(base, key)
        if not given.holds(own):
            raise SearchError(f"search: the recipe's own {key} ({own}) is outside of its range")
        for end in given.ends:
            load_recipe(recipe, [*overrides, f"{key}={as_yaml(end)}"])
    return base


def _value_of(recipe: Recipe, key: str) -> Value:
    """Return the recipe's own value of a dotted key. Raises SearchError."""
    at: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        if not isinstance(at, dict) or part not in at:
            raise SearchError(f"search: the recipe has no {key}")
        at = at[part]
    if not isinstance(at, bool | int | float | str):
        raise SearchError(f"search: {key} is {at}, not one value")
    return at


def _evaluated(recipe: str, overrides: Sequence[str], base: Recipe) -> Recipe:
    """Load a recipe for a trial: with evaluations, which the search goes by, and no ranges."""
    added = ["search={}"]
    if base.evaluate is None:
        added.append(f"evaluate.every_images={max(base.train.images // 6, base.train.batch)}")
    return load_recipe(recipe, [*overrides, *added])


def _study(out: Path, base: Recipe, seed: int) -> optuna.Study:
    """Open the search in a folder, or begin it. Raises SearchError when another one is there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if out.exists() and not out.is_dir():
        raise SearchError(f"{out} is a file; a search needs a folder")
    out.mkdir(parents=True, exist_ok=True)
    steps = base.train.images
    study = optuna.create_study(
        storage=f"sqlite:///{(out / 'search.db').resolve()}",
        study_name=STUDY,
        direction="maximize" if more_is_better(base.metric) else "minimize",
        load_if_exists=True,
        sampler=_sampler(seed),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=round(steps * _WARM_UP)
        ),
    )
    known = study.user_attrs.get("recipe")
    if known is None:
        study.set_user_attr("recipe", base.to_yaml())
    elif known != base.to_yaml():
        raise SearchError(f"{out} holds a search of another recipe; choose another --out")
    return study


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=_STARTUP_TRIALS
        )


def _begin_again_what_was_stopped(study: optuna.Study) -> None:
    """Put trials that were under way when the search was stopped at the head of the queue."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        folder = trial.user_attrs.get("folder", f"{trial.number:04}")
        study.enqueue_trial(trial.params, user_attrs={"folder": folder})


def _ended(study: optuna.Study) -> int:
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def _play(study: optuna.Study, base: Recipe, given: Sequence[str], out: Path, say: Say) -> None:
    """Draw values and train by them; tell the study how it went."""
    recipe, *overrides = given
    trial = study.ask()
    values = {key: _suggest(trial, key, base) for key in base.search}
    if "folder" not in trial.user_attrs:
        trial.set_user_attr("folder", f"{trial.number:04}")
    folder = out / "trials" / trial.user_attrs["folder"]
    own = all(values[key] == _value_of(base, key) for key in values)
    told = ", ".join(f"{key}={_short(value)}" for key, value in values.items())
    say(f"trial {trial.number}: {told}{' (the recipe itself)' if own else ''}")
    options = _evaluated(recipe, [*overrides, *_laid_over(values)], base)
    metric = options.metric

    def watch(images: int, figures: Mapping[str, float]) -> None:
        trial.report(figures[metric], images)
        trial.set_user_attr("images", images)
        # What all are held against sees the whole of its training.
        if not own and trial.should_prune():
            raise optuna.TrialPruned

    try:
        result = train(options, Run(folder), watch)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        say(f"trial {trial.number} was ended: others were better by then")
    except TrainingDiverged as error:
        trial.set_user_attr("diverged", str(error))
        study.tell(trial, state=TrialState.PRUNED)
        say(f"trial {trial.number} diverged: {error}")
    else:
        if result is None or result.best is None:
            raise SearchError("a search runs in one process, and its recipe has to be evaluated")
        study.tell(trial, result.best[1])
        say(f"trial {trial.number}: {called(metric)} {result.best[1]:.5g}")


def _suggest(trial: optuna.Trial, key: str, base: Recipe) -> Value:
    given = base.search[key]
    if given.choices:
        chosen = trial.suggest_categorical(key, list(given.choices))
        assert chosen is not None  # noqa: S101 - None is no choice
        return chosen
    low, high = given.low, given.high
    assert low is not None  # noqa: S101 - the range's validator sees to both
    assert high is not None  # noqa: S101
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=given.log)
    return trial.suggest_float(key, low, high, log=given.log)


def _laid_over(values: Mapping[str, Value]) -> list[str]:
    return [f"{key}={as_yaml(value)}" for key, value in values.items()]


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _result(study: optuna.Study, base: Recipe) -> SearchResult:
    def worth(figure: float | None) -> float:
        return cost(base.metric, figure or 0.0)

    trials: list[Trial] = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        seen = list(trial.intermediate_values.values())
        diverged = "diverged" in trial.user_attrs
        trials.append(
            Trial(
                number=len(trials),
                values=dict(trial.params),
                figure=trial.value
                if trial.value is not None
                else min(seen, key=worth, default=None),
                images=int(trial.user_attrs.get("images", 0)),
                state="diverged" if diverged else trial.state.name.lower(),
                folder=f"trials/{trial.user_attrs.get('folder', f'{trial.number:04}')}",
            )
        )
    whole = [trial for trial in trials if trial.state == "complete" and trial.figure is not None]
    return SearchResult(
        recipe=base.name,
        metric=base.metric,
        ranges={key: given.model_dump(exclude_defaults=True) for key, given in base.search.items()},
        trials=tuple(trials),
        best=min(whole, key=lambda trial: worth(trial.figure), default=None),
    )


def _confirm(
    base: Recipe, given: Sequence[str], best: Trial, out: Path, count: int, say: Say
) -> Confirmation:
    """Train the recipe and the best trial with other seeds, and measure both on other pictures."""
    recipe, *overrides = given
    seeds = tuple(base.train.seed + 1 + i for i in range(count))
    found: dict[str, list[float]] = {"recipe": [], "best": []}
    title = ""
    for seed in seeds:
        for who, values in (("recipe", {}), ("best", best.values)):
            say(f"confirming: {who} with seed {seed}")
            options = _evaluated(
                recipe, [*overrides, *_laid_over(values), f"train.seed={seed}"], base
            )
            # What was best may change as trials go on, and a folder holds one recipe.
            name = f"{who}-{best.number:04}" if who == "best" else who
            run = Run(out / "confirm" / f"{name}-seed-{seed}")
            train(options, run)
            figure, title = _held_out_figure(run, options)
            found[who].append(figure)
            say(f"confirming: {who} with seed {seed}: {called(base.metric)} {figure:.5f}")
    return Confirmation(
        seeds=seeds,
        metric=base.metric,
        reference=title,
        recipe=tuple(found["recipe"]),
        best=tuple(found["best"]),
    )


def _held_out_figure(run: Run, recipe: Recipe) -> tuple[float, str]:
    """Measure the best checkpoint of a run by pictures that it was not chosen by, if any."""
    assert recipe.evaluate is not None  # noqa: S101 - recipes of a search are evaluated
    try:
        translator = open_image_to_image_target(str(run.folder), run.folder, checkpoint="best")
        if translator is not None:
            more = recipe.evaluate.model_copy(update=_CONFIRM)
            gauge = picture_gauge(recipe, more, confirms=True)
            made = partial(made_by, translator.model)
            return gauge.measure(made)[recipe.metric], gauge.title
        subject = open_target(
            str(run.folder), run.folder, seed_start=_CONFIRM_SEED, checkpoint="best"
        )
    except RecipeError as error:
        raise SearchError(f"{run.folder} has not been evaluated: {error}") from error
    reference = open_reference(recipe.data)
    options = EvaluationOptions(**_CONFIRM, obedience=False, paths=10)
    network = open_network(recipe.evaluate.network)
    evaluation, _ = evaluate(subject, reference, network, options)
    names = _NAMES[recipe.metric]
    figure = next(each for each in evaluation.figures if each.metric.startswith(names))
    return figure.value, reference.against.title


def _write(out: Path, found: SearchResult) -> None:
    with replacing(out / "search.json") as temporary:
        text = {**json.loads(found.model_dump_json(exclude_none=True)), "verdict": found.verdict}
        temporary.write_text(json.dumps(text, indent=2) + "\n")
    write_search_report(out / "search.html", found)
