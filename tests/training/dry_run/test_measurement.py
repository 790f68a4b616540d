"""A dry run measures what the training does, and writes nothing into its folder."""

import json
import subprocess

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.errors import UserError
from service.runtime.progress import stage_progress
from tests.support.distributed import train_command
from tests.support.tiny_recipes import TINY
from training.data.sources import DataError
from training.dry_run.layers import recorded_layers
from training.dry_run.measurement import dry_run
from training.dry_run.memory import PeakMemory, tensor_bytes
from training.dry_run.report import lines
from training.monitoring.loggers.logger import LoggerUnavailable
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train


def recipe(digits, *more, name="gan-mnist"):
    return load_recipe(name, [*TINY[name], f"data.path={digits}", *more])


def measured(loaded, folder, **options):
    with stage_progress() as show:
        return dry_run(loaded, Run(folder), show, **options)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_new_run_is_measured_and_not_written(digits, tmp_path):
    loaded = recipe(digits, "train.sample_images=256", "train.checkpoint_images=320")
    result = measured(loaded, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert result.resumes_at is None
    assert result.data["images"] == 600
    (phase,) = result.phases
    assert (phase.from_images, phase.to_images, phase.turns) == (0, 640, 10)
    assert phase.images_per_second > 0
    assert 0 < phase.data_share < 1
    assert result.seconds >= 640 / phase.images_per_second
    # The sheets after 256, 512 and 640 images; checkpoints after 384 and 640.
    assert (result.sheets.times, result.checkpoints.times, result.evaluations.times) == (3, 2, 0)
    assert result.peak_bytes > tensor_bytes(list(loaded.build_generator().parameters()))


def test_parameters_and_sizes_are_those_of_the_run(digits, tmp_path):
    loaded = recipe(digits, name="dcgan-fashion")
    result = measured(loaded, tmp_path / "measured")
    train(loaded, Run(tmp_path / "run"))
    for name, build in (
        ("generator", loaded.build_generator),
        ("discriminator", loaded.build_discriminator),
    ):
        player, network = result.players[name], build()
        assert player.parameters == sum(weight.numel() for weight in network.parameters())
        assert player.weights_bytes == tensor_bytes(network.state_dict())
        # Adam keeps two moments of each weight, and the number of its step.
        weights = list(network.parameters())
        assert player.optimizer_bytes == 2 * tensor_bytes(weights) + 4 * len(weights)
        listed = sum(layer["parameters"] for layer in player.layers)
        assert listed + player.unlisted_parameters == player.parameters
    size = Run(tmp_path / "run").checkpoint_path.stat().st_size
    assert result.checkpoint_bytes == pytest.approx(size, rel=0.02)
    channels, side = loaded.data.channels, loaded.data.resolution
    assert result.players["generator"].layers[-1]["shape"] == (channels, side, side)


def test_existing_run_is_resumed_and_unchanged(digits, tmp_path):
    train(recipe(digits), Run(tmp_path))
    before = contents(tmp_path)
    result = measured(recipe(digits, "train.images=6400"), tmp_path)
    assert contents(tmp_path) == before
    assert result.resumes_at == 640
    assert [(phase.from_images, phase.to_images) for phase in result.phases] == [(640, 6400)]
    assert "resumes at 640 of 6,400 images" in "\n".join(lines(result))
    with pytest.raises(RecipeError, match=r"run of another recipe \(train\.batch was"):
        measured(recipe(digits, "train.batch=64"), tmp_path)
    changed = measured(recipe(digits, "train.batch=64"), tmp_path, override=True)
    assert any("train.batch was 128, now 64" in line for line in lines(changed))
    assert contents(tmp_path) == before


def test_complete_run_has_no_turns_left(digits, tmp_path):
    train(recipe(digits), Run(tmp_path))
    result = measured(recipe(digits), tmp_path)
    assert (result.phases, result.seconds) == ((), 0)
    assert "complete at 640 of 640 images" in "\n".join(lines(result))


def test_whole_periods_of_lazy_penalties_are_measured(digits, tmp_path):
    lazy = ["game.r1=1", "game.penalty_every=4", "game.loss=non_saturating"]
    (phase,) = measured(recipe(digits, *lazy), tmp_path / "run").phases
    assert phase.turns == 12


def test_each_stage_of_a_growing_run_is_measured(tmp_path, photographs):
    overrides = [
        *("generator.width=8", "generator.most=8", "generator.w_dim=8", "generator.z_dim=8"),
        *("discriminator.width=8", "discriminator.most=8", "data.resolution=16"),
        *("train.batch=4", "train.images=640", f"data.path={photographs}"),
        "game.growing={start: 8, stage_images: 64, fade_images: 64}",
    ]
    result = measured(load_recipe("stylegan2-tiles", overrides), tmp_path / "run")
    starts = [phase.from_images for phase in result.phases]
    assert starts == [0, 64, 128]
    assert result.phases[-1].to_images == 640
    # The shapes of the whole network, although the run starts at 8 pixels.
    assert result.players["generator"].layers[-1]["shape"][-2:] == (16, 16)
    assert "from 128 images" in "\n".join(lines(result))


def test_fine_tuning_is_measured_with_the_weights_that_it_takes(digits, tmp_path):
    train(recipe(digits), Run(tmp_path / "source"))
    tuned = [f"from={tmp_path / 'source'}", "fine_tune.freeze_generator_images=256"]
    result = measured(recipe(digits, *tuned), tmp_path / "run")
    assert [phase.from_images for phase in result.phases] == [0, 256]
    report = "\n".join(lines(result))
    assert "fine-tunes" in report
    assert "tensors taken, 100.0% of its values" in report


def test_what_would_stop_the_training_stops_the_dry_run(digits, tmp_path):
    with pytest.raises(DataError):
        measured(recipe(tmp_path / "missing"), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RecipeError, match="neither empty nor a run folder"):
        measured(recipe(digits), tmp_path / "other")
    broken = recipe(digits, "optimizer.generator.learning_rate=.inf")
    with pytest.raises(UserError, match="lower the learning rates"):
        measured(broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_logger_stops_the_dry_run(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(LoggerUnavailable):
        measured(recipe(digits, "train.loggers=[wandb]"), tmp_path / "run")


def test_command_prints_tables_or_json(digits, tmp_path):
    arguments = ["train", "gan-mnist", *TINY["gan-mnist"], f"data.path={digits}", "--dry-run"]
    arguments += ["--out", str(tmp_path / "run")]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    words = [line.split() for line in shown.stdout.splitlines() if line]
    assert ["generator", "layer", "output", "parameters"] in words
    assert [row[0] for row in words[-7:]] == [
        "run",
        "device",
        "data",
        "memory",
        "speed",
        "time",
        "disk",
    ]
    shown = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    document = json.loads(shown.stdout)
    assert document["players"]["generator"]["layers"][0]["shape"]
    assert document["seconds"] > 0
    with pytest.raises(UserError, match="--json is the output of --dry-run"):
        CliRunner().invoke(
            app,
            [each for each in [*arguments, "--json"] if each != "--dry-run"],
            catch_exceptions=False,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_only_the_main_process_prints(digits, tmp_path):
    command = train_command(digits, tmp_path / "run", "gan-mnist", 2, *TINY["gan-mnist"])
    shown = subprocess.run(
        [*command, "--dry-run", "--json"], check=True, capture_output=True, text=True, timeout=300
    )
    assert json.loads(shown.stdout)["processes"] == 2
    assert not (tmp_path / "run").exists()


class Shared(nn.Module):
    """A network with a parametrized layer, a weight of its own, and an unused layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
        self.activation = nn.ReLU()
        self.scale = nn.Parameter(torch.ones(4))
        self.unused = nn.Linear(4, 5)

    def forward(self, x):
        for _ in range(2):
            y = self.activation(self.first(x)) * self.scale
        return {"y": (y[:, :2], y)}


def test_layers_are_listed_once_in_the_order_of_their_calls():
    with recorded_layers({"network": Shared()}) as tables:
        Shared()
    assert tables["network"].layers == []
    network = Shared()
    with recorded_layers({"network": network}) as tables:
        network(torch.zeros(6, 3))
        network(torch.zeros(6, 3))
    table = tables["network"]
    assert [(layer.name, layer.kind, layer.shape, layer.parameters) for layer in table.layers] == [
        ("first", "Linear", (4,), 16),
        ("(output)", "Shared", (2,), 4),
    ]
    assert table.unlisted_parameters == 25
    assert not network.first._forward_hooks


def test_peak_memory_of_a_block_includes_what_it_has_freed():
    memory = PeakMemory(torch.device("cpu"))
    with memory.measured():
        del_me = torch.ones(2**26)
        del del_me
    large = memory.bytes
    small = PeakMemory(torch.device("cpu"))
    with small.measured():
        torch.ones(1)
    assert large - small.bytes > 2**27
