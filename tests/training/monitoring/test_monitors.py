import json
import math
import random

import pytest
import torch

from tests.support.images import real_mnist, write_colored
from tests.support.marks import slow_except
from training.distributed import DistributedContext
from training.losses import adversarial_loss
from training.monitoring.convergence import is_level
from training.monitoring.metrics import MetricWindow, TrainingDiverged, assert_finite
from training.monitoring.monitors import Monitors
from training.monitoring.problems import ModeCollapse
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train


def test_rejects_weights_that_are_not_finite():
    good = {"generator": {"weight": torch.ones(3), "count": torch.tensor(3)}}
    assert_finite(good)
    with pytest.raises(TrainingDiverged, match="a weight of the discriminator"):
        assert_finite(good | {"discriminator": {"weight": torch.tensor([1.0, float("nan")])}})


def test_metrics_are_means_over_the_interval():
    window = MetricWindow(DistributedContext())
    for value in (1.0, 2.0, 6.0):
        window.add({"loss": torch.tensor(value)})
    assert window.take() == {"loss": 3.0}
    window.add({"loss": torch.tensor(5.0)})
    assert window.take() == {"loss": 5.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_loss_stops_the_run_with_advice(value):
    window = MetricWindow(DistributedContext())
    window.add({"loss_generator": torch.tensor(value), "loss_discriminator": torch.tensor(1.0)})
    with pytest.raises(TrainingDiverged, match=r"loss_generator became .*learning rates"):
        window.take()


# The logged numbers of a healthy run. Each test replaces some of them.
HEALTHY = {
    "loss_discriminator": 0.9,
    "loss_generator": 1.2,
    "real_score": 0.7,
    "fake_score": 0.3,
    "separation": 0.9,
    "gradient_generator": 2.0,
    "gradient_discriminator": 3.0,
}
TURN = 10
INTERVAL = 50 * TURN


class MonitoredRun:
    """Feeds logged numbers to monitors, interval by interval, and collects the events."""

    def __init__(self, loss="non_saturating"):
        self.monitors = Monitors(adversarial_loss(loss), TURN)
        self.images, self.events = 0, []

    def log(self, intervals=1, **numbers):
        for _ in range(intervals):
            self.images += INTERVAL
            self.events += self.monitors.update({"images": self.images, **HEALTHY, **numbers})
        return self

    def sample(self, samplings=1, **numbers):
        """Log the numbers of sample images, each time after 200 turns."""
        for _ in range(samplings):
            self.images += 200 * TURN
            self.events += self.monitors.update(
                {"images": self.images, "duplicates": 0.0, **numbers}
            )
        return self

    @property
    def alarms(self) -> list[str]:
        return [event.alarm for event in self.events if event.active]


CERTAIN_DISCRIMINATOR = {"separation": 1.0, "loss_discriminator": 0.001}
PROBLEMS = {
    "discriminator wins": CERTAIN_DISCRIMINATOR,
    "generator wins": {"separation": 0.3},
    "generator's gradient vanishes": {"gradient_generator": 1e-6},
    "discriminator's gradient vanishes": {"gradient_discriminator": 0.0},
    "generator's gradient explodes": {"gradient_generator": 1e4},
    "discriminator's gradient explodes": {"gradient_discriminator": 1e4},
    "losses explode": {"loss_generator": 900.0},
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_persistent_problem_raises_and_ends_one_alarm(name):
    run = MonitoredRun().log(10)
    assert not run.events
    run.log(10, **PROBLEMS[name])
    assert run.alarms == [name]
    assert run.monitors.state == name
    run.log(10)
    assert [(event.alarm, event.active) for event in run.events] == [(name, True), (name, False)]
    assert name not in run.monitors.state


@pytest.mark.parametrize("name", PROBLEMS)
def test_single_bad_intervals_raise_no_alarm(name):
    run = MonitoredRun().log(10)
    for _ in range(5):
        run.log(1, **PROBLEMS[name]).log(3)
    assert not run.events


@pytest.mark.parametrize("name", PROBLEMS)
def test_alarm_contains_a_number_and_keys_to_change(name):
    message = MonitoredRun().log(10).log(10, **PROBLEMS[name]).events[0].message
    split = message.split if message.count(";") == 1 else message.rsplit
    observation, advice = split("; ", 1)
    assert any(character.isdigit() for character in observation)
    assert "optimizer." in advice


def test_alarm_waits_for_turns_not_intervals():
    run = MonitoredRun().log(10)
    for _ in range(9):
        run.images += 10 * TURN
        run.events += run.monitors.update(
            {"images": run.images, **HEALTHY, **CERTAIN_DISCRIMINATOR}
        )
    assert not run.events
    assert run.log(1, **CERTAIN_DISCRIMINATOR).alarms == ["discriminator wins"]


def test_negative_wasserstein_loss_raises_no_alarm():
    numbers = {"separation": 1.0, "real_score": 300.0, "fake_score": -200.0}
    run = MonitoredRun("wasserstein").log(
        20, loss_discriminator=-500.0, loss_generator=200.0, **numbers
    )
    assert not run.events


@pytest.mark.parametrize("loss", ["hinge", "least_squares", "relativistic", "minimax"])
def test_discriminator_wins_with_every_bounded_loss(loss):
    assert MonitoredRun(loss).log(5, loss_discriminator=0.2).log(
        5, **CERTAIN_DISCRIMINATOR
    ).alarms == ["discriminator wins"]
    ahead = MonitoredRun(loss).log(20, separation=0.999, loss_discriminator=0.2)
    assert not ahead.events


def test_generator_wins_only_if_discriminator_never_separated():
    assert not MonitoredRun().log(3).log(30, separation=0.51).events
    assert MonitoredRun().log(30, separation=0.51).alarms == ["generator wins"]


def test_slowly_learning_discriminator_raises_no_alarm():
    run = MonitoredRun()
    for separation in (0.51, 0.5, 0.53, 0.54, 0.56, 0.55, 0.58, 0.57, 0.6, 0.62, 0.6, 0.65):
        run.log(1, separation=separation)
    assert not run.events


def test_slowly_growing_gradient_explodes():
    run = MonitoredRun("wasserstein").log(1)
    for i in range(40):
        run.log(1, gradient_generator=2.0 * 1.3**i)
    assert run.alarms == ["generator's gradient explodes"]


def test_saturating_loss_vanishes_with_low_fake_scores():
    assert MonitoredRun("minimax").log(5, fake_score=0.0001).alarms == [
        "generator's gradient vanishes"
    ]
    assert not MonitoredRun("non_saturating").log(5, fake_score=0.0001).events


@pytest.mark.parametrize("numbers", [{"diversity": 0.1}, {"diversity": 0.9, "duplicates": 0.8}])
def test_mode_collapse_from_low_diversity_or_duplicates(numbers):
    run = MonitoredRun().sample(3, diversity=1.0)
    assert run.sample(4, **numbers).alarms == ["mode collapse"]
    assert "duplicates" in run.events[0].message or "10%" in run.events[0].message


def test_growing_diversity_is_not_mode_collapse():
    run = MonitoredRun()
    for diversity in (0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        run.sample(1, diversity=diversity, duplicates=0.95)
    assert not run.events


def test_monitors_restored_from_log_continue_identically():
    rng = random.Random(0)
    entries = []
    for i in range(60):
        problem = CERTAIN_DISCRIMINATOR if 20 <= i < 40 else {}
        noise = {key: value * rng.uniform(0.9, 1.1) for key, value in HEALTHY.items()}
        entries.append({"images": (i + 1) * INTERVAL, **noise, **problem})
    uninterrupted, resumed = (Monitors(adversarial_loss("hinge"), TURN) for _ in range(2))
    events = [uninterrupted.update(entry) for entry in entries]
    for entry, entry_events in zip(entries[:30], events, strict=False):
        resumed.update(json.loads(json.dumps(entry)))
        for event in entry_events:
            resumed.update({"images": entry["images"], **event.log_entry()})
    assert [resumed.update(entry) for entry in entries[30:]] == events[30:]
    assert sum(len(each) for each in events) == 2


def test_noisy_losses_are_level_and_falling_losses_are_not():
    rng = random.Random(1)
    assert is_level([1.36 + rng.gauss(0, 0.01) for _ in range(10)])
    assert is_level([5.0] * 10)
    assert not is_level([1.36 - 0.05 * i + rng.gauss(0, 0.01) for i in range(10)])
    assert not is_level([-10.0 + 0.5 * i for i in range(10)])


def test_state_goes_from_begins_to_converged():
    run, states = MonitoredRun(), []

    def record_state():
        states.append(run.monitors.state)

    run.log(3)
    record_state()
    for i in range(15):
        run.log(1, loss_generator=4.0 - i / 5)
    record_state()
    run.log(14)
    record_state()
    run.sample(1, diversity=1.0, change=0.05).log(3, real_score=0.52, fake_score=0.48)
    record_state()
    assert states == ["begins", "learning", "converging", "converged"]
    assert not run.events


# The tests below train real runs, with and without problems.

SMALL = ["generator.widths=[32]", "discriminator.widths=[16]"]
OFTEN = ["train.log_images=640", "train.sample_images=2560", "train.batch=16"]


def rates(generator, discriminator) -> list[str]:
    return [
        f"optimizer.generator.learning_rate={generator}",
        f"optimizer.discriminator.learning_rate={discriminator}",
    ]


def logged_alarms(run) -> dict[str, str]:
    entries = [json.loads(line) for line in run.log_path.open()]
    return {entry["alarm"]: entry["says"] for entry in entries if entry.get("rings")}


BROKEN_RUNS = {
    "a discriminator far too strong for the saturating loss": (
        [
            *("game.loss=minimax", "game.discriminator_steps=3", *rates(1e-5, 0.01)),
            "train.images=9600",
        ],
        {"discriminator wins", "generator's gradient vanishes"},
    ),
    "a discriminator that does not learn": (
        [*rates(2e-4, 1e-9), "train.images=5120"],
        {"generator wins"},
    ),
    "a critic without any constraint": (
        [*rates(2e-4, 0.02), "game.loss=wasserstein", "train.images=4000", "train.log_images=160"],
        {"generator's gradient explodes"},
    ),
    "learning rates of one": (
        [*rates(1, 1), "train.images=2560"],
        {"losses explode"},
    ),
    "a generator that chases an almost frozen discriminator": (
        [*rates(0.05, 1e-5), "train.images=16000"],
        {"mode collapse"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("problem", slow_except("a discriminator that does not learn", BROKEN_RUNS))
def test_broken_run_raises_alarms(tmp_path, digits, capfd, problem):
    overrides, expected = BROKEN_RUNS[problem]
    run = Run(tmp_path / "run")
    recipe = load_recipe("gan-mnist", [*SMALL, *OFTEN, *overrides, f"data.path={digits}"])
    train(recipe, run)
    alarms = logged_alarms(run)
    assert expected <= alarms.keys()
    stderr = capfd.readouterr().err
    for name in expected:
        assert f"alarm: {name}: {alarms[name]}" in stderr
        assert f"  {name}" in stderr or f", {name}" in stderr
    assert {f"alarms/{name}/text_summary" for name in expected} <= set(tensorboard(run)["tensors"])
    assert {"diversity", "duplicates", "gradient_generator"} <= set(tensorboard(run)["scalars"])


def tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return events.Tags()


def test_diverged_run_logs_the_alarm(tmp_path, digits):
    run = Run(tmp_path / "run")
    overrides = [*SMALL, *OFTEN, *rates(1e30, 1e30), f"data.path={digits}", "train.images=6400"]
    with pytest.raises(TrainingDiverged, match=r"optimizer\.generator\.learning_rate"):
        train(load_recipe("gan-mnist", overrides), run)
    assert "game.clip_gradients" in logged_alarms(run)["not a number"]


HEALTHY_RUNS = {
    "gan-mnist": ["generator.widths=[128,128]", "discriminator.widths=[48,48]", "train.batch=32"],
    "dcgan-fashion": ["generator.width=24", "discriminator.width=16", "train.batch=32"],
    "cgan-fashion": ["generator.width=24", "discriminator.width=16", "train.batch=32"],
    "wgan-gp-mnist": ["generator.width=16", "discriminator.width=16", "train.batch=16"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_except("gan-mnist", HEALTHY_RUNS))
def test_healthy_run_raises_no_alarm(tmp_path, digits, name):
    run = Run(tmp_path / "run")
    images = real_mnist() or digits
    often = ["train.images=12800", "train.log_images=1280", "train.sample_images=2560"]
    train(load_recipe(name, [*HEALTHY_RUNS[name], *often, f"data.path={images}"]), run)
    assert logged_alarms(run) == {}
    last = [json.loads(line) for line in run.log_path.open()][-1]
    assert last["diversity"] > 0
    assert all(math.isfinite(value) for value in last.values() if not isinstance(value, str))


WIDTH_KEYS = ("width", "most")
STYLE_SIZES = {"z_dim": 16, "w_dim": 16, "mapping_layers": 2}


def style_overrides(width: int) -> list[str]:
    players = ("generator", "discriminator")
    return [
        "data.resolution=16",
        *(f"generator.{key}={value}" for key, value in STYLE_SIZES.items()),
        *(f"{player}.{key}={width}" for player in players for key in WIDTH_KEYS),
    ]


HEALTHY_COLOR_RUNS = {
    "stylegan2-flowers": style_overrides(16),
    "r3gan-cifar10": [
        "data.resolution=16",
        *(
            f"{player}.{key}={value}"
            for player in ("generator", "discriminator")
            for key, value in {"width": 16, "most": 32, "blocks": 1, "group_width": 8}.items()
        ),
    ],
    "biggan-flowers": [
        *("generator.width=8", "generator.class_width=16", "generator.z_dim=20"),
        *("discriminator.width=8", "game.augment.ramp_images=5000"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY_COLOR_RUNS)
def test_healthy_color_run_with_classes_raises_no_alarm(tmp_path, name):
    images = write_colored(tmp_path / "images", classes=5, count=600)
    often = ["train.images=2560", "train.log_images=192", "train.sample_images=864"]
    small = ["classes=5", "train.batch=16", f"data.path={images}"]
    run = Run(tmp_path / "run")
    train(load_recipe(name, [*HEALTHY_COLOR_RUNS[name], *often, *small]), run)
    assert logged_alarms(run) == {}
    entries = [json.loads(line) for line in run.log_path.open()]
    assert sum("gradient_generator" in entry for entry in entries) >= 9
    assert sum("diversity" in entry for entry in entries) >= 2


# With batches of 8, the run is longer than the delay of any alarm.
GROWING = [
    *style_overrides(8),
    *("game.growing.start=4", "game.growing.stage_images=1280", "game.growing.fade_images=640"),
    *("game.augment.ramp_images=10000", "train.batch=8", "train.images=5120"),
    *("train.log_images=320", "train.sample_images=1280"),
]


@pytest.mark.slow
def test_healthy_growing_run_with_augmentation_raises_no_alarm(tmp_path):
    run = Run(tmp_path / "run")
    images = write_colored(tmp_path / "images", classes=1, count=600)
    recipe = load_recipe("stylegan-tiles", [*GROWING, f"data.path={images}"])
    train(recipe, run)
    assert logged_alarms(run) == {}
    # Both larger resolutions have faded in, and images are augmented.
    assert recipe.game.growing.images(recipe.data.resolution) < recipe.train.images
    last = [json.loads(line) for line in run.log_path.open() if "augment_probability" in line][-1]
    assert last["augment_probability"] > 0.2
    assert recipe.train.images // recipe.train.batch > ModeCollapse.turns


# Problems that raise alarms at these sizes; without them, healthy runs would prove nothing.
BROKEN_COLOR_RUNS = {
    "biggan-flowers": (
        [*HEALTHY_COLOR_RUNS["biggan-flowers"], *rates(2e-4, 1e-8), "classes=5", "train.batch=16"],
        "generator wins",
    ),
    "stylegan-tiles": (
        [*GROWING, *rates(1e-6, 0.01), "game.r1=0", "game.augment=null"],
        "discriminator wins",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN_COLOR_RUNS)
def test_broken_color_run_raises_alarm(tmp_path, name):
    overrides, expected = BROKEN_COLOR_RUNS[name]
    images = write_colored(tmp_path / "images", classes=5, count=600)
    often = ["train.images=4000", "train.log_images=320", f"data.path={images}"]
    run = Run(tmp_path / "run")
    train(load_recipe(name, [*overrides, *often]), run)
    assert expected in logged_alarms(run)
