"""Fine-tuning of runs, models and checkpoints, from the first image to the model card."""

import re
import shutil
import signal

import pytest
import torch
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import read_manifest
from training.checkpoints import Checkpoint
from training.fine_tuning.errors import FineTuningError
from training.fine_tuning.start import summary_lines
from training.fine_tuning.trainable import networks_of_run
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import TrainingInterrupted, train

# Learning rates at which no weight changes.
STILL = ("optimizer.generator.learning_rate=1e-30", "optimizer.discriminator.learning_rate=1e-30")


def states(run: Run):
    return networks_of_run(Checkpoint.load(run.checkpoint_path))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def started(recipe, folder) -> Run:
    run = Run(folder)
    train(recipe, run)
    return run


@pytest.mark.parametrize("kind", ["run", "model", "checkpoint"])
def test_training_starts_from_both_players_and_the_average(
    tmp_path, small_recipe, source_run, source_model, kind
):
    weights = {
        "run": source_run.folder,
        "model": source_model,
        "checkpoint": source_run.checkpoint_path,
    }[kind]
    recipe = small_recipe(f"from={weights}", "fine_tune.freeze_generator_images=8", *STILL)
    run = started(recipe, tmp_path / "run")
    for name, state in states(source_run).items():
        assert_equal(states(run)[name], state)
    record = run.provenance().fine_tuned
    assert [each.share for each in record.networks] == [1.0, 1.0, 1.0]
    assert record.images == 8
    assert record.license == "Apache-2.0"
    assert record.source == ("source@1" if kind == "model" else "source/checkpoint.pt at 8 images")


def test_recipe_without_from_has_no_section_and_no_record(source_run):
    assert source_run.recipe().fine_tune is None
    assert source_run.provenance().fine_tuned is None


def test_other_classes_and_resolution_take_what_fits(tmp_path, source_run, other_data):
    overrides = [
        *("generator.width=2", "generator.most=8", "generator.z_dim=8", "generator.w_dim=8"),
        *("generator.mapping_layers=1", "generator.class_width=4", "discriminator.width=2"),
        *("discriminator.most=8", "train.batch=4", "train.images=8", "device.device=cpu"),
        *("classes=4", f"data.path={other_data}", f"from={source_run.folder}"),
    ]
    run = started(load_recipe("stylegan2-flowers", overrides), tmp_path / "run")
    generator, discriminator, _ = run.provenance().fine_tuned.networks
    assert all(".2." in name for name in generator.new)
    assert generator.kept_classes == ("rose",)
    assert generator.new_classes == ("cat", "dog", "ship")
    assert set(discriminator.unused) == {"from_image.16.weight", "from_image.16.bias"}
    text = "\n".join(summary_lines(run.provenance().fine_tuned))
    assert "classes kept: rose; from the mean of all classes: cat, dog, ship" in text
    assert "discriminator, not used: from_image.16.weight, from_image.16.bias" in text


def test_frozen_layers_do_not_change(tmp_path, small_recipe, source_run):
    recipe = small_recipe(f"from={source_run.folder}", "fine_tune.freeze_discriminator=2")
    before, after = (
        states(run)["discriminator"] for run in (source_run, started(recipe, tmp_path / "run"))
    )
    changed = {".".join(n.split(".")[:2]) for n in before if not torch.equal(before[n], after[n])}
    assert changed.isdisjoint({"from_image.16", "blocks.16"})
    assert changed >= {"blocks.8", "last.weight", "features.weight", "judge.weight"}


def test_generator_is_frozen_for_the_first_images_only(tmp_path, small_recipe, source_run):
    settings = (f"from={source_run.folder}", "fine_tune.freeze_generator_images=8")
    frozen = started(small_recipe(*settings), tmp_path / "frozen")
    assert_equal(states(frozen)["generator"], states(source_run)["generator"])
    assert_equal(states(frozen)["average"], states(source_run)["average"])
    longer = started(small_recipe(*settings, "train.images=12"), tmp_path / "longer")
    before, after = states(frozen)["generator"], states(longer)["generator"]
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_stopped_and_resumed_run_equals_uninterrupted_run(tmp_path, small_recipe, source_run):
    copy = tmp_path / "copy"
    shutil.copytree(source_run.folder, copy)
    settings = [
        f"from={copy}",
        "train.images=40",
        "fine_tune.warm_up_images=24",
        "fine_tune.freeze_generator_images=12",
        "fine_tune.freeze_discriminator=1",
        "evaluate=null",
        "train.log_images=4",
    ]
    whole = started(small_recipe(*settings), tmp_path / "whole")
    part, recipe = Run(tmp_path / "part"), small_recipe(*settings)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, turns=4)
        with pytest.raises(TrainingInterrupted):
            train(recipe, part)
    # The weights of the source are in the checkpoint, so it is not needed any more.
    shutil.rmtree(copy)
    train(recipe, part)
    for name, state in states(whole).items():
        assert_equal(states(part)[name], state)
    assert part.provenance().fine_tuned == whole.provenance().fine_tuned


def stop_after(patch, turns: int) -> None:
    """Send this process SIGTERM in a turn of the training."""
    from training import trainer

    play = trainer.play_turn

    def counted(setup, seed, turn, *more):
        if turn == turns - 1:
            signal.raise_signal(signal.SIGTERM)
        return play(setup, seed, turn, *more)

    patch.setattr(trainer, "play_turn", counted)


def test_run_cannot_be_resumed_from_other_weights(tmp_path, small_recipe, source_run):
    run = started(small_recipe(f"from={source_run.folder}"), tmp_path / "run")
    for changed in (small_recipe(), small_recipe("from=elsewhere")):
        with pytest.raises(RecipeError, match=r"fine_tune\.weights was .*/source, now"):
            run.open(changed)
        with pytest.raises(RecipeError, match="cannot change during a run"):
            run.open(changed, override=True)


def test_warm_up_raises_the_learning_rate_of_each_player(small_recipe):
    from training.distributed import DistributedContext
    from training.games.players import Players

    recipe = small_recipe(
        *("from=x", "fine_tune.warm_up_images=8", "fine_tune.freeze_generator_images=4"),
        # Lazy penalties lower the rates.
        *("game.penalty_every=1", "game.path_length=0"),
    )
    players = Players(
        recipe,
        recipe.build_generator(),
        recipe.build_discriminator(),
        torch.device("cpu"),
        "float32",
        DistributedContext(),
    )
    rates = []
    for images in (0, 4, 8, 12):
        players.set_learning_rates(images)
        rates.append(tuple(o.param_groups[0]["lr"] for o in players.optimizers.values()))
    assert rates == [(0.0, 0.001), (0.001, 0.002), (0.002, 0.002), (0.002, 0.002)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nowhere", "nowhere was not found"),
        ("{empty}", "is neither a run, a model nor a checkpoint"),
        ("{text}", "text.pt is damaged and is not a checkpoint|is not a checkpoint"),
        ("{plain}", "has no trainable weights, only graphs: .*--trainable"),
    ],
)
def test_unusable_sources_are_one_clear_line(
    tmp_path, small_recipe, source_model, weights, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("not weights")
    plain = ""
    if weights == "{plain}":
        plain = tmp_path / "plain"
        shutil.copytree(source_model, plain)
        manifest = read_manifest(plain).model_copy(update={"trainable": None})
        (plain / "model.json").write_text(manifest.to_json())
    weights = weights.format(empty=tmp_path / "empty", text=tmp_path / "text.pt", plain=plain)
    with pytest.raises(FineTuningError, match=message) as caught:
        train(small_recipe(f"from={weights}"), Run(tmp_path / "run"))
    assert "\n" not in str(caught.value)


def test_nothing_fits(tmp_path, source_run, digits):
    overrides = ["generator.widths=[8]", "discriminator.widths=[8]", "train.images=128"]
    recipe = load_recipe(
        "gan-mnist", [*overrides, f"data.path={digits}", f"from={source_run.folder}"]
    )
    with pytest.raises(FineTuningError, match="no tensor has the same name and shape"):
        train(recipe, Run(tmp_path / "run"))


def test_weights_of_another_game_are_refused(tmp_path, small_recipe, source_run):
    other = tmp_path / "other"
    shutil.copytree(source_run.folder, other)
    Run(other).save_recipe(load_recipe("cyclegan-emoji"))
    with pytest.raises(FineTuningError, match=r"has the game unpaired, but .* noise_to_image"):
        train(small_recipe(f"from={other}"), Run(tmp_path / "run"))


def test_damaged_trainable_weights_are_refused(tmp_path, small_recipe, source_model):
    folder = tmp_path / "model"
    shutil.copytree(source_model, folder)
    path = folder / "trainable.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(FineTuningError, match="SHA-256 does not fit"):
        train(small_recipe(f"from={folder}"), Run(tmp_path / "run"))


def test_command_fine_tunes_and_exports_a_model_to_continue_from(
    tmp_path, monkeypatch, small_recipe, source_model
):
    monkeypatch.setenv("GANYMEDE_MODELS", str(source_model.parents[1]))
    recipe = tmp_path / "small.yaml"
    recipe.write_text(small_recipe().to_yaml())
    run = tmp_path / "run"
    result = CliRunner().invoke(app, ["train", str(recipe), "from=source", "--out", str(run)])
    assert result.exit_code == 0, result.output
    assert "fine-tunes source@1 (SHA-256 " in result.output
    assert re.search(r"discriminator: \d+ tensors taken, 100\.0% of its values", result.output)
    result = CliRunner().invoke(
        app, ["export", str(run), "--name", "tuned", "--trainable", "--models", str(tmp_path / "m")]
    )
    assert result.exit_code == 0, result.output
    folder = tmp_path / "m" / "tuned" / "1"
    manifest = read_manifest(folder)
    assert manifest.trainable.networks == ("generator", "average", "discriminator")
    assert manifest.provenance.fine_tuned.source == "source@1"
    card = (folder / "README.md").read_text()
    assert "| Fine-tuned from | source@1 (Apache-2.0), trained on 8 images, SHA-256" in card


def test_from_needs_a_value(small_recipe):
    with pytest.raises(RecipeError, match="from= needs a run"):
        small_recipe("from=")


def test_from_needs_a_section(small_recipe):
    with pytest.raises(RecipeError, match="fine_tune is a value, not a section"):
        small_recipe("fine_tune=3", "from=x")


def test_unknown_keys_are_errors(small_recipe):
    with pytest.raises(RecipeError, match="unknown key 'warm_up'; did you mean 'warm_up_images'"):
        small_recipe("from=x", "fine_tune.warm_up=3")
