import json
import math
import random

import pytest
import torch

from tests.support.images import real_mnist, write_coloured
from training.distributed import DistributedContext
from training.losses import adversarial_loss
from training.monitoring.convergence import is_level
from training.monitoring.metrics import MetricWindow, TrainingDiverged, assert_finite
from training.monitoring.monitors import Monitors
from training.monitoring.problems import ModeCollapse
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train


def test_weights_that_are_no_numbers_are_not_kept():
    good = {"generator": {"weight": torch.ones(3), "count": torch.tensor(3)}}
    assert_finite(good)
    with pytest.raises(TrainingDiverged, match="a weight of the discriminator"):
        assert_finite(good | {"discriminator": {"weight": torch.tensor([1.0, float("nan")])}})


def test_means_are_over_the_interval_alone():
    signs = MetricWindow(DistributedContext())
    for value in (1.0, 2.0, 6.0):
        signs.add({"loss": torch.tensor(value)})
    assert signs.take() == {"loss": 3.0}
    signs.add({"loss": torch.tensor(5.0)})
    assert signs.take() == {"loss": 5.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_change(value):
    signs = MetricWindow(DistributedContext())
    signs.add({"loss_generator": torch.tensor(value), "loss_discriminator": torch.tensor(1.0)})
    with pytest.raises(TrainingDiverged, match=r"loss_generator became .*learning rates"):
        signs.take()


# A run that goes well, as numbers: each test spoils some of them.
WELL = {
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


class Story:
    """Tells a run to monitors, interval by interval, and keeps what they say."""

    def __init__(self, loss="non_saturating"):
        self.monitors = Monitors(adversarial_loss(loss), TURN)
        self.images, self.said = 0, []

    def tell(self, intervals=1, **numbers):
        for _ in range(intervals):
            self.images += INTERVAL
            self.said += self.monitors.update({"images": self.images, **WELL, **numbers})
        return self

    def show(self, samplings=1, **numbers):
        """Tell of pictures, each time after 200 turns."""
        for _ in range(samplings):
            self.images += 200 * TURN
            self.said += self.monitors.update({"images": self.images, "duplicates": 0.0, **numbers})
        return self

    @property
    def rang(self) -> list[str]:
        return [news.alarm for news in self.said if news.rings]


SURE = {"separation": 1.0, "loss_discriminator": 0.001}
TROUBLES = {
    "discriminator wins": SURE,
    "generator wins": {"separation": 0.3},
    "generator's gradient vanishes": {"gradient_generator": 1e-6},
    "discriminator's gradient vanishes": {"gradient_discriminator": 0.0},
    "generator's gradient explodes": {"gradient_generator": 1e4},
    "discriminator's gradient explodes": {"gradient_discriminator": 1e4},
    "losses explode": {"loss_generator": 900.0},
}


@pytest.mark.parametrize("name", TROUBLES)
def test_an_alarm_rings_once_when_a_trouble_lasts_and_says_when_it_is_over(name):
    story = Story().tell(10)
    assert not story.said
    story.tell(10, **TROUBLES[name])
    assert story.rang == [name]
    assert story.monitors.state == name
    story.tell(10)
    assert [(news.alarm, news.rings) for news in story.said] == [(name, True), (name, False)]
    assert name not in story.monitors.state


@pytest.mark.parametrize("name", TROUBLES)
def test_one_bad_interval_is_noise(name):
    story = Story().tell(10)
    for _ in range(5):
        story.tell(1, **TROUBLES[name]).tell(3)
    assert not story.said


@pytest.mark.parametrize("name", TROUBLES)
def test_an_alarm_says_what_is_seen_with_a_figure_and_which_keys_to_change(name):
    says = Story().tell(10).tell(10, **TROUBLES[name]).said[0].says
    seen, advice = says.split("; ", 1) if says.count(";") == 1 else says.rsplit("; ", 1)
    assert any(character.isdigit() for character in seen)
    assert "optimizer." in advice


def test_however_short_the_intervals_a_trouble_must_last_for_turns():
    story = Story().tell(10)
    for _ in range(9):
        story.images += 10 * TURN
        story.said += story.monitors.update({"images": story.images, **WELL, **SURE})
    assert not story.said
    assert story.tell(1, **SURE).rang == ["discriminator wins"]


def test_a_critic_that_is_ahead_and_whose_loss_is_negative_is_no_trouble():
    numbers = {"separation": 1.0, "real_score": 300.0, "fake_score": -200.0}
    story = Story("wasserstein").tell(
        20, loss_discriminator=-500.0, loss_generator=200.0, **numbers
    )
    assert not story.said


@pytest.mark.parametrize("loss", ["hinge", "least_squares", "relativistic", "minimax"])
def test_a_discriminator_wins_by_any_loss_that_has_a_bottom(loss):
    assert Story(loss).tell(5, loss_discriminator=0.2).tell(5, **SURE).rang == [
        "discriminator wins"
    ]
    ahead = Story(loss).tell(20, separation=0.999, loss_discriminator=0.2)
    assert not ahead.said


def test_a_generator_has_won_only_where_the_discriminator_never_could_tell():
    assert not Story().tell(3).tell(30, separation=0.51).said
    assert Story().tell(30, separation=0.51).rang == ["generator wins"]


def test_a_discriminator_that_learns_slowly_is_not_beaten():
    story = Story()
    for separation in (0.51, 0.5, 0.53, 0.54, 0.56, 0.55, 0.58, 0.57, 0.6, 0.62, 0.6, 0.65):
        story.tell(1, separation=separation)
    assert not story.said


def test_a_gradient_that_grows_step_by_step_explodes_as_well():
    story = Story("wasserstein").tell(1)
    for i in range(40):
        story.tell(1, gradient_generator=2.0 * 1.3**i)
    assert story.rang == ["generator's gradient explodes"]


def test_a_saturating_loss_vanishes_with_what_the_discriminator_gives_to_generated_pictures():
    assert Story("minimax").tell(5, fake_score=0.0001).rang == ["generator's gradient vanishes"]
    assert not Story("non_saturating").tell(5, fake_score=0.0001).said


@pytest.mark.parametrize("figures", [{"diversity": 0.1}, {"diversity": 0.9, "duplicates": 0.8}])
def test_modes_collapse_when_pictures_are_alike_or_have_twins(figures):
    story = Story().show(3, diversity=1.0)
    assert story.show(4, **figures).rang == ["mode collapse"]
    assert "duplicates" in story.said[0].says or "10%" in story.said[0].says


def test_a_generator_that_begins_with_one_picture_and_finds_more_has_not_collapsed():
    story = Story()
    for diversity in (0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        story.show(1, diversity=diversity, duplicates=0.95)
    assert not story.said


def test_monitors_that_hear_the_log_again_say_the_same_from_there_on():
    rng = random.Random(0)
    entries = []
    for i in range(60):
        sure = SURE if 20 <= i < 40 else {}
        noise = {key: value * rng.uniform(0.9, 1.1) for key, value in WELL.items()}
        entries.append({"images": (i + 1) * INTERVAL, **noise, **sure})
    unbroken, resumed = (Monitors(adversarial_loss("hinge"), TURN) for _ in range(2))
    said = [unbroken.update(entry) for entry in entries]
    for entry, news in zip(entries[:30], said, strict=False):
        resumed.update(json.loads(json.dumps(entry)))
        for one in news:
            resumed.update({"images": entry["images"], **one._asdict()})
    assert [resumed.update(entry) for entry in entries[30:]] == said[30:]
    assert sum(len(news) for news in said) == 2


def test_losses_that_stray_are_level_and_losses_that_fall_are_not():
    rng = random.Random(1)
    assert is_level([1.36 + rng.gauss(0, 0.01) for _ in range(10)])
    assert is_level([5.0] * 10)
    assert not is_level([1.36 - 0.05 * i + rng.gauss(0, 0.01) for i in range(10)])
    assert not is_level([-10.0 + 0.5 * i for i in range(10)])


def test_a_run_begins_learns_converges_and_has_converged():
    story, states = Story(), []

    def told():
        states.append(story.monitors.state)

    story.tell(3)
    told()
    for i in range(15):
        story.tell(1, loss_generator=4.0 - i / 5)
    told()
    story.tell(14)
    told()
    story.show(1, diversity=1.0, change=0.05).tell(3, real_score=0.52, fake_score=0.48)
    told()
    assert states == ["begins", "learning", "converging", "converged"]
    assert not story.said


# Below, runs that are broken on purpose, and sound ones, truly trained.

SMALL = ["generator.widths=[32]", "discriminator.widths=[16]"]
OFTEN = ["train.log_images=640", "train.sample_images=2560", "train.batch=16"]


def rates(generator, discriminator) -> list[str]:
    return [
        f"optimizer.generator.learning_rate={generator}",
        f"optimizer.discriminator.learning_rate={discriminator}",
    ]


def alarms(run) -> dict[str, str]:
    entries = [json.loads(line) for line in run.log_path.open()]
    return {entry["alarm"]: entry["says"] for entry in entries if entry.get("rings")}


BROKEN = {
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
    "a generator that runs after a discriminator almost at rest": (
        [*rates(0.05, 1e-5), "train.images=16000"],
        {"mode collapse"},
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_run_says_what_is_wrong(tmp_path, digits, capfd, what):
    overrides, expected = BROKEN[what]
    run = Run(tmp_path / "run")
    recipe = load_recipe("gan-mnist", [*SMALL, *OFTEN, *overrides, f"data.path={digits}"])
    train(recipe, run)
    found = alarms(run)
    assert expected <= found.keys()
    shown = capfd.readouterr().err
    for name in expected:
        assert f"alarm: {name}: {found[name]}" in shown
        assert f"  {name}" in shown or f", {name}" in shown
    assert {f"alarms/{name}/text_summary" for name in expected} <= set(tensorboard(run)["tensors"])
    assert {"diversity", "duplicates", "gradient_generator"} <= set(tensorboard(run)["scalars"])


def tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return events.Tags()


def test_a_run_that_is_no_number_any_more_has_it_in_its_log(tmp_path, digits):
    run = Run(tmp_path / "run")
    overrides = [*SMALL, *OFTEN, *rates(1e30, 1e30), f"data.path={digits}", "train.images=6400"]
    with pytest.raises(TrainingDiverged, match=r"optimizer\.generator\.learning_rate"):
        train(load_recipe("gan-mnist", overrides), run)
    assert "game.clip_gradients" in alarms(run)["not a number"]


SOUND = {
    "gan-mnist": ["generator.widths=[128,128]", "discriminator.widths=[48,48]", "train.batch=32"],
    "dcgan-fashion": ["generator.width=24", "discriminator.width=16", "train.batch=32"],
    "cgan-fashion": ["generator.width=24", "discriminator.width=16", "train.batch=32"],
    "wgan-gp-mnist": ["generator.width=16", "discriminator.width=16", "train.batch=16"],
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_run_rings_no_alarm(tmp_path, digits, name):
    run = Run(tmp_path / "run")
    pictures = real_mnist() or digits
    often = ["train.images=12800", "train.log_images=1280", "train.sample_images=2560"]
    train(load_recipe(name, [*SOUND[name], *often, f"data.path={pictures}"]), run)
    assert alarms(run) == {}
    last = [json.loads(line) for line in run.log_path.open()][-1]
    assert last["diversity"] > 0
    assert all(math.isfinite(value) for value in last.values() if not isinstance(value, str))


SIDES = ("width", "most")
STYLE_SIZES = {"z_dim": 16, "w_dim": 16, "mapping_layers": 2}


def style_sizes(width: int) -> list[str]:
    players = ("generator", "discriminator")
    return [
        "data.resolution=16",
        *(f"generator.{key}={value}" for key, value in STYLE_SIZES.items()),
        *(f"{player}.{key}={width}" for player in players for key in SIDES),
    ]


SOUND_IN_COLOUR = {
    "stylegan2-flowers": style_sizes(16),
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


@pytest.mark.parametrize("name", SOUND_IN_COLOUR)
def test_a_sound_run_by_class_in_colour_rings_no_alarm(tmp_path, name):
    pictures = write_coloured(tmp_path / "pictures", classes=5, count=600)
    often = ["train.images=2560", "train.log_images=192", "train.sample_images=864"]
    small = ["classes=5", "train.batch=16", f"data.path={pictures}"]
    run = Run(tmp_path / "run")
    train(load_recipe(name, [*SOUND_IN_COLOUR[name], *often, *small]), run)
    assert alarms(run) == {}
    entries = [json.loads(line) for line in run.log_path.open()]
    assert sum("gradient_generator" in entry for entry in entries) >= 9
    assert sum("diversity" in entry for entry in entries) >= 2


# Batches of 8: as many turns as any alarm may wait.
GROWS = [
    *style_sizes(8),
    *("game.growing.start=4", "game.growing.stage_images=1280", "game.growing.fade_images=640"),
    *("game.augment.ramp_images=10000", "train.batch=8", "train.images=5120"),
    *("train.log_images=320", "train.sample_images=1280"),
]


def test_a_sound_run_that_grows_and_augments_rings_no_alarm(tmp_path):
    run = Run(tmp_path / "run")
    pictures = write_coloured(tmp_path / "pictures", classes=1, count=600)
    recipe = load_recipe("stylegan-tiles", [*GROWS, f"data.path={pictures}"])
    train(recipe, run)
    assert alarms(run) == {}
    # Both larger sides have faded in, and pictures are augmented.
    assert recipe.growing.images(recipe.data.resolution) < recipe.train.images
    last = [json.loads(line) for line in run.log_path.open() if "augment_probability" in line][-1]
    assert last["augment_probability"] > 0.2
    assert recipe.train.images // recipe.train.batch > ModeCollapse.turns


# What rings in these sizes, so that the silence of the sound runs says something.
BROKEN_IN_COLOUR = {
    "biggan-flowers": (
        [*SOUND_IN_COLOUR["biggan-flowers"], *rates(2e-4, 1e-8), "classes=5", "train.batch=16"],
        "generator wins",
    ),
    "stylegan-tiles": (
        [*GROWS, *rates(1e-6, 0.01), "game.r1=0", "game.augment=null"],
        "discriminator wins",
    ),
}


@pytest.mark.parametrize("name", BROKEN_IN_COLOUR)
def test_a_broken_run_in_colour_says_what_is_wrong(tmp_path, name):
    overrides, expected = BROKEN_IN_COLOUR[name]
    pictures = write_coloured(tmp_path / "pictures", classes=5, count=600)
    often = ["train.images=4000", "train.log_images=320", f"data.path={pictures}"]
    run = Run(tmp_path / "run")
    train(load_recipe(name, [*overrides, *often]), run)
    assert expected in alarms(run)
