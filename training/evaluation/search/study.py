"""Hyperparameter search: trials of a recipe with values from the ranges that it declares.

Every trial is a run in ``trials/``. It is evaluated during training, and stopped early if other
trials were better at the same point. The state is stored in an SQLite file, so that an interrupted
search can be continued. The best of many trials is partly luck. The best trial and the recipe are
therefore trained again with other seeds and measured on held-out images.
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

from service.runtime.errors import UserError
from service.runtime.files import replacing
from training.evaluation.features.networks import open_network
from training.evaluation.features.references import open_reference
from training.evaluation.image_to_image.targets import open_image_to_image_target
from training.evaluation.metrics import get_metric
from training.evaluation.noise.evaluation import evaluate
from training.evaluation.noise.inputs import EvaluationOptions
from training.evaluation.noise.targets import open_noise_target
from training.evaluation.search.ranges import Value, as_yaml, short_text
from training.evaluation.search.report import write_search_report
from training.evaluation.search.results import Confirmation, SearchResult, Trial
from training.monitoring.metrics import TrainingDiverged
from training.preview.image_to_image import translate_images
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.recipe.schema import Recipe
from training.run import Run
from training.trainer import train

STUDY = "search"
# The first trials are never stopped early. Others are not stopped before this fraction of training.
_STARTUP_TRIALS = 4
_WARM_UP = 0.25
# The samples of the confirmation differ from those that selected the best trial.
_CONFIRMATION_SEED = 1_000_000
_CONFIRMATION_SAMPLES = {"samples": 2_000, "reference_samples": 10_000}

# Called with progress messages of one line.
Report = Callable[[str], None]


class SearchError(UserError):
    """The search cannot be run, or its folder cannot be used."""


def search(
    recipe: str,
    overrides: Sequence[str],
    out: Path,
    *,
    trials: int,
    confirm: int = 2,
    seed: int = 0,
    report: Report = lambda _: None,
) -> SearchResult:
    """Run the recipe itself and then other trials, until `trials` trials have finished.

    Afterwards, trains the best trial and the recipe with `confirm` other seeds. Continues a search
    that exists in `out`. Writes ``search.json`` and ``search.html`` to `out`. Raises SearchError,
    RecipeError, and the errors of training.
    """
    base = _base(recipe, overrides)
    study = _study(out, base, seed)
    _requeue_interrupted_trials(study)
    own = {key: _value_of(base, key) for key in base.search}
    if not study.trials:
        study.enqueue_trial(own)
    while (finished := _count_finished(study)) < trials:
        # Every trial has a different seed. Otherwise, a continued search would repeat its values.
        study.sampler = _sampler(seed + 1000 * len(study.trials))
        _run_trial(study, base, [recipe, *overrides], out, report)
        if _count_finished(study) == finished:
            raise SearchError("a trial has not finished")
    result = _result(study, base)
    _write(out, result)
    if confirm and result.best and result.best.number:
        confirmation = _confirm(base, [recipe, *overrides], result.best, out, confirm, report)
        result = result.model_copy(update={"confirmation": confirmation})
        _write(out, result)
    return result


def _base(recipe: str, overrides: Sequence[str]) -> Recipe:
    """Return the recipe, after checking all of its ranges."""
    base = load_recipe(recipe, overrides)
    if not base.search:
        raise SearchError(
            f"{recipe} declares no ranges: add a section search, such as "
            "search: {optimizer.generator.learning_rate: {low: 0.00005, high: 0.002, log: true}}"
        )
    for key, values in base.search.items():
        own = _value_of(base, key)
        if not values.contains(own):
            raise SearchError(f"search: the recipe's own {key} ({own}) is outside its range")
        for extreme in values.extremes:
            load_recipe(recipe, [*overrides, f"{key}={as_yaml(extreme)}"])
    return base


def _value_of(recipe: Recipe, key: str) -> Value:
    """Return the recipe's own value of a dotted key. Raises SearchError."""
    value: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise SearchError(f"search: the recipe has no {key}")
        value = value[part]
    if not isinstance(value, bool | int | float | str):
        raise SearchError(f"search: {key} is {value}, not a single value")
    return value


def _trial_recipe(recipe: str, overrides: Sequence[str], base: Recipe) -> Recipe:
    """Load a recipe for a trial: with evaluations, and without ranges."""
    added = ["search={}"]
    if base.evaluate is None:
        added.append(f"evaluate.every_images={max(base.train.images // 6, base.train.batch)}")
    return load_recipe(recipe, [*overrides, *added])


def _study(out: Path, base: Recipe, seed: int) -> optuna.Study:
    """Create or open the study in a folder. Raises SearchError if it belongs to another recipe."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if out.exists() and not out.is_dir():
        raise SearchError(f"{out} is a file, but a search needs a folder")
    out.mkdir(parents=True, exist_ok=True)
    steps = base.train.images
    study = optuna.create_study(
        storage=f"sqlite:///{(out / 'search.db').resolve()}",
        study_name=STUDY,
        direction="maximize" if get_metric(base.metric).higher_is_better else "minimize",
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
        raise SearchError(f"{out} contains a search of another recipe; choose another --out")
    return study


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=_STARTUP_TRIALS
        )


def _requeue_interrupted_trials(study: optuna.Study) -> None:
    """Queue the trials that were running when the search was interrupted."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        folder = trial.user_attrs.get("folder", f"{trial.number:04}")
        study.enqueue_trial(trial.params, user_attrs={"folder": folder})


def _count_finished(study: optuna.Study) -> int:
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def _run_trial(
    study: optuna.Study, base: Recipe, arguments: Sequence[str], out: Path, report: Report
) -> None:
    """Choose values, train with them in ``trials/``, and record the result in the study."""
    recipe, *overrides = arguments
    trial = study.ask()
    values = {key: _suggest(trial, key, base) for key in base.search}
    if "folder" not in trial.user_attrs:
        trial.set_user_attr("folder", f"{trial.number:04}")
    folder = out / "trials" / trial.user_attrs["folder"]
    own = all(values[key] == _value_of(base, key) for key in values)
    text = ", ".join(f"{key}={short_text(value)}" for key, value in values.items())
    report(f"trial {trial.number}: {text}{' (the recipe itself)' if own else ''}")
    options = _trial_recipe(recipe, [*overrides, *_as_overrides(values)], base)
    metric = get_metric(options.metric)

    def watch(images: int, figures: Mapping[str, float]) -> None:
        trial.report(figures[metric.name], images)
        trial.set_user_attr("images", images)
        # The recipe itself is never stopped early, because all trials are compared with it.
        if not own and trial.should_prune():
            raise optuna.TrialPruned

    try:
        result = train(options, Run(folder), watch)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        report(f"trial {trial.number} was stopped early: others were better at the same point")
    except TrainingDiverged as error:
        trial.set_user_attr("diverged", str(error))
        study.tell(trial, state=TrialState.PRUNED)
        report(f"trial {trial.number} diverged: {error}")
    else:
        if result is None or result.best is None:
            raise SearchError("a search runs in a single process, with evaluations")
        study.tell(trial, result.best[1])
        report(f"trial {trial.number}: {metric.title} {result.best[1]:.5g}")


def _suggest(trial: optuna.Trial, key: str, base: Recipe) -> Value:
    values = base.search[key]
    if values.choices:
        choice = trial.suggest_categorical(key, list(values.choices))
        assert choice is not None  # noqa: S101 - None is not among the choices
        return choice
    low, high = values.low, values.high
    assert low is not None  # noqa: S101 - ensured by the range's validator
    assert high is not None  # noqa: S101
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=values.log)
    return trial.suggest_float(key, low, high, log=values.log)


def _as_overrides(values: Mapping[str, Value]) -> list[str]:
    return [f"{key}={as_yaml(value)}" for key, value in values.items()]


def _result(study: optuna.Study, base: Recipe) -> SearchResult:
    def cost(figure: float | None) -> float:
        return get_metric(base.metric).cost(figure or 0.0)

    trials: list[Trial] = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        figures = list(trial.intermediate_values.values())
        diverged = "diverged" in trial.user_attrs
        trials.append(
            Trial(
                number=len(trials),
                values=dict(trial.params),
                figure=trial.value
                if trial.value is not None
                else min(figures, key=cost, default=None),
                images=int(trial.user_attrs.get("images", 0)),
                state="diverged" if diverged else trial.state.name.lower(),
                folder=f"trials/{trial.user_attrs.get('folder', f'{trial.number:04}')}",
            )
        )
    complete = [trial for trial in trials if trial.state == "complete" and trial.figure is not None]
    return SearchResult(
        recipe=base.name,
        metric=base.metric,
        ranges={
            key: values.model_dump(exclude_defaults=True) for key, values in base.search.items()
        },
        trials=tuple(trials),
        best=min(complete, key=lambda trial: cost(trial.figure), default=None),
    )


def _confirm(
    base: Recipe, arguments: Sequence[str], best: Trial, out: Path, count: int, report: Report
) -> Confirmation:
    """Train the recipe and the best trial with other seeds, and measure both."""
    recipe, *overrides = arguments
    seeds = tuple(base.train.seed + 1 + i for i in range(count))
    figures: dict[str, list[float]] = {"recipe": [], "best": []}
    title = ""
    for seed in seeds:
        for role, values in (("recipe", {}), ("best", best.values)):
            report(f"confirmation: {role} with seed {seed}")
            options = _trial_recipe(
                recipe, [*overrides, *_as_overrides(values), f"train.seed={seed}"], base
            )
            # After more trials, another trial may be the best. A run cannot change its recipe.
            name = f"{role}-{best.number:04}" if role == "best" else role
            run = Run(out / "confirm" / f"{name}-seed-{seed}")
            train(options, run)
            figure, title = _held_out_figure(run, options)
            figures[role].append(figure)
            title_of_metric = get_metric(base.metric).title
            report(f"confirmation: {role} with seed {seed}: {title_of_metric} {figure:.5f}")
    return Confirmation(
        seeds=seeds,
        metric=base.metric,
        reference=title,
        recipe=tuple(figures["recipe"]),
        best=tuple(figures["best"]),
    )


def _held_out_figure(run: Run, recipe: Recipe) -> tuple[float, str]:
    """Measure the best checkpoint of a run on images that were not used to select it, if any.

    Returns the value and the name of the reference. Raises SearchError.
    """
    assert recipe.evaluate is not None  # noqa: S101 - trials are evaluated
    try:
        image_to_image = open_image_to_image_target(str(run.folder), run.folder, checkpoint="best")
        if image_to_image is not None:
            options = recipe.evaluate.model_copy(update=_CONFIRMATION_SAMPLES)
            validation = recipe.game.validation(recipe, options, confirms=True)
            generate = partial(translate_images, image_to_image.model)
            return validation.measure(generate)[recipe.metric], validation.title
        target = open_noise_target(
            str(run.folder), run.folder, seed_start=_CONFIRMATION_SEED, checkpoint="best"
        )
    except RecipeError as error:
        raise SearchError(f"{run.folder} has not been evaluated: {error}") from error
    reference = open_reference(recipe.data)
    evaluation_options = EvaluationOptions(
        samples=_CONFIRMATION_SAMPLES["samples"],
        reference_samples=_CONFIRMATION_SAMPLES["reference_samples"],
        class_accuracy=False,
        paths=10,
        report_images=False,
    )
    network = open_network(recipe.evaluate.network)
    evaluation, _ = evaluate(target, reference, network, evaluation_options)
    metric = get_metric(recipe.metric)
    figure = next(each for each in evaluation.figures if metric.matches(each.metric))
    return figure.value, reference.against.title


def _write(out: Path, result: SearchResult) -> None:
    with replacing(out / "search.json") as temporary:
        text = {
            **json.loads(result.model_dump_json(exclude_none=True)),
            "verdict": result.verdict,
        }
        temporary.write_text(json.dumps(text, indent=2) + "\n")
    write_search_report(out / "search.html", result)
