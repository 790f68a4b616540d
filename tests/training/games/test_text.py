"""The game of text: phases, roll-outs, rewards, resuming and export."""

import json
import zlib

import pytest
import torch

from service.runtime.models.golden import check_golden
from service.runtime.models.model import GoldenMatch, Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from service.runtime.text.sampling import sample_token
from training.checkpoints import Checkpoint
from training.data.text.vocabulary import END
from training.distributed import DistributedContext
from training.export.errors import ExportError
from training.export.exporter import export_run, load_generator
from training.export.text import generate_texts
from training.games.text.generation import Sampler, counted, inputs_of
from training.games.text.options import TextOptions
from training.networks.text.recurrent import RecurrentGenerator
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

LINES = [f"{size} {color} {thing}" for size in ("big", "wee") for color in ("red", "tan")
         for thing in ("cat", "dog", "hat", "cup", "ant", "owl", "bee", "fox")]  # fmt: skip
TINY = [
    "generator.hidden=16",
    "game.corpus.unit=character",
    "game.corpus.vocabulary=80",
    "ema.half_life_images=4000",
    "generator.embedding=8",
    "discriminator.filters=8",
    "discriminator.widths=[1,2,3]",
    "train.batch=8",
    "game.discriminator_steps=2",
    "game.pretrain_images=64",
    "game.pretrain_discriminator_images=32",
    "train.images=160",
    "train.log_images=16",
    "train.sample_images=80",
    "train.loggers=[]",
]
GUMBEL = ["game.adversary=gumbel", "game.loss=relativistic"]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES))
    return path


def recipe(corpus, *overrides):
    return load_recipe(
        "seqgan-emoji", [*TINY, f"data.path={corpus}", "game.corpus.max_length=14", *overrides]
    )


@pytest.mark.parametrize("adversary", [[], GUMBEL], ids=["policy_gradient", "gumbel"])
def test_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path, adversary):
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(recipe(corpus, *adversary, "train.images=160"), whole)
    # In each of the phases; the inverse temperature depends on the length of the run.
    fixed = recipe(corpus, *adversary)
    for images in (48, 80, 128, 160):
        stopped = fixed.model_copy(
            update={"train": fixed.train.model_copy(update={"images": images})}
        )
        if adversary and images == 128:
            continue
        train(stopped, parts)
    states = [Checkpoint.load(run.checkpoint_path).game for run in (whole, parts)]
    for name in ("generator", "discriminator"):
        for key, weight in states[0]["networks"][name].items():
            assert torch.equal(weight, states[1]["networks"][name][key]), key
    for key, weight in states[0]["pretrained"].items():
        assert torch.equal(weight, states[1]["pretrained"][key]), key


def test_phases_have_their_metrics(corpus, tmp_path):
    run = Run(tmp_path / "run")
    train(recipe(corpus), run)
    log = {entry["images"]: entry for entry in run.read_log() if "seconds" in entry}
    assert {"nll", "gradient_likelihood"} <= log[64].keys()
    assert "loss_discriminator" not in log[64]
    assert "loss_discriminator" in log[96]
    assert "reward" not in log[96]
    assert 0 < log[160]["reward"] < 1
    sheet = run.samples / "0000000160.txt"
    assert len(sheet.read_text().splitlines()) == 40
    assert sheet.with_suffix(".png").is_file()


def test_progress_counts_texts(corpus, tmp_path, capsys):
    train(recipe(corpus, "train.images=32"), Run(tmp_path / "run"))
    shown = capsys.readouterr().err
    assert "32/32 texts" in shown
    assert "images" not in shown


def test_no_likelihood_of_held_out_lines_without_any(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{line}\n" for line in LINES[:8] if zlib.crc32(line.encode()) % 10))
    run = Run(tmp_path / "run")
    train(recipe(path, "train.images=32"), run)
    measured = [entry for entry in run.read_log() if "known" in entry][-1]
    assert "held_out_nll" not in measured


def test_maximum_likelihood_learns_the_lines(corpus, tmp_path):
    run = Run(tmp_path / "run")
    options = ["game.pretrain_images=6400", "train.images=6400", "generator.dropout=0"]
    train(recipe(corpus, *options, "generator.hidden=48", "game.pretrain_learning_rate=0.02"), run)
    last = [entry for entry in run.read_log() if "known" in entry][-1]
    # The words of the samples are those of the corpus.
    assert last["held_out_nll"] < 0.6
    words = {word for line in LINES for word in line.split()}
    texts = (run.samples / "0000006400.txt").read_text().splitlines()
    assert sum(set(text.split()) <= words for text in texts) > 30


def test_roll_outs_keep_their_prefixes_and_ends():
    torch.manual_seed(0)
    network = RecurrentGenerator(4, "lstm", 8, 8, 1, 0.0)
    sampler = Sampler(network, 4, 7, ends=True)
    sequences = sampler.sample(50)
    completed = sampler.roll_outs(sequences, 3)
    assert completed.shape == (6, 3, 50, 7)
    for i in range(6):
        assert (completed[i, ..., : i + 1] == sequences[:, : i + 1]).all()
    ended = (completed == END).cummax(-1).values
    assert (completed[ended] == END).all()
    # Completions differ from the sequences and from each other.
    assert (completed[0, 0] != completed[0, 1]).any()


def test_roll_outs_are_samples_of_the_generator():
    """The token after a prefix has the probability that the network gives it."""
    torch.manual_seed(1)
    network = RecurrentGenerator(3, "gru", 4, 6, 1, 0.0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight)
    sequences = torch.tensor([[2, 1, 0, 1]])
    completed = Sampler(network, 3, 4, ends=False).roll_outs(sequences, 20_000)
    with torch.no_grad():
        expected = network(inputs_of(sequences)).softmax(2)[0]
    for length in (1, 2, 3):
        frequencies = completed[length - 1, :, 0, length].bincount(minlength=3) / 20_000
        torch.testing.assert_close(frequencies, expected[length], atol=0.015, rtol=0)


def test_soft_samples_are_samples_of_the_generator():
    torch.manual_seed(0)
    network = RecurrentGenerator(5, "gru", 4, 6, 1, 0.0)
    with torch.no_grad():
        for weight in network.parameters():
            torch.nn.init.normal_(weight)
        soft = Sampler(network, 5, 4, ends=True).soft_samples(4000, 1000.0)
        logits, _ = network.step(torch.full((1,), END), network.initial_state(1))
    assert torch.allclose(soft.sum(2), torch.ones(4000, 4))
    tokens = soft.argmax(2)
    frequencies = tokens[:, 0].bincount(minlength=5) / 4000
    assert torch.allclose(frequencies, logits.softmax(1)[0], atol=0.03)
    # After the end of a text there are only ends.
    after = ~counted(tokens, ends=True)
    assert after.any()
    assert (soft[after][:, END] == 1).all()


@pytest.mark.parametrize("adversary", [[], GUMBEL], ids=["policy_gradient", "gumbel"])
def test_generator_follows_a_fixed_discriminator(corpus, adversary):
    """The discriminator accepts the texts that contain a token; it does not train."""
    fixed = recipe(
        corpus, *adversary, "game.pretrain_images=0", "game.pretrain_discriminator_images=0",
        "optimizer.generator.learning_rate=0.02", "optimizer.discriminator.learning_rate=1e-12",
        "game.inverse_temperature=2",
    )  # fmt: skip
    assert isinstance(fixed.game, TextOptions)
    data = fixed.game.prepare_data(fixed)
    cpu = torch.device("cpu")
    precision = fixed.device.pick_precision(cpu)
    setup = fixed.game.set_up(fixed, data, cpu, precision, DistributedContext())
    game, wanted = setup.game, data.vocabulary.units.index("g")
    _accept_texts_with(game.weights["discriminator"], wanted)

    def share() -> float:
        torch.manual_seed(1)
        network = game.weights["generator"].eval()
        return float((game.sampler(network).sample(400) == wanted).any(1).float().mean())

    before = share()
    for turn in range(40):
        game.turn(setup.batches(turn), torch.Generator(), turn, turn)
    assert share() > before + 0.2


def _accept_texts_with(discriminator, token):
    with torch.no_grad():
        for weight in discriminator.parameters():
            weight.zero_()
        discriminator.embedding.weight[token, 0] = 1
        discriminator.convolutions[0].weight[0, 0, 0] = 1
        # The highway layer passes its input on.
        discriminator.gate.bias.fill_(-30)
        discriminator.output.weight[0, 0] = 4
        discriminator.output.bias.fill_(-2)
    discriminator.dropout.p = 0.0


def test_tokens_count_up_to_the_end():
    sequences = torch.tensor([[3, 2, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert counted(sequences, ends=True).sum(1).tolist() == [3, 4, 1]
    assert counted(sequences, ends=False).all()


def test_exported_steps_are_those_of_the_network(corpus, tmp_path):
    run = Run(tmp_path / "run")
    train(recipe(corpus), run)
    folder = export_run(run, "lines", tmp_path / "models")
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 8))
    spec = model.manifest.text
    assert spec is not None
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    assert set(vocabulary[1:]) == set("".join(LINES))
    assert check_golden(model, folder) is GoldenMatch.EXACT
    texts = generate_texts(model, range(20))
    assert texts != generate_texts(model, range(20), temperature=0.0)
    # The rule of the service, with the network of PyTorch instead of the graph.
    generator = load_generator(run.recipe(), Checkpoint.load(run.checkpoint_path))
    for seed, text in enumerate(texts):
        assert sampled(generator, vocabulary, spec, seed) == text


@torch.no_grad()
def sampled(generator, vocabulary, spec, seed):
    import numpy as np

    draws = np.random.RandomState(seed).random_sample(spec.max_length)
    token, state, units = spec.start, generator.initial_state(1), []
    for draw in draws:
        logits, state = generator.step(torch.tensor([token]), state)
        token = sample_token(logits[0, : spec.size].numpy(), 1.0, float(draw))
        if token == spec.end:
            break
        units.append(vocabulary[token])
    return "".join(units)


def test_oracle_is_measured_and_not_exported(tmp_path):
    overrides = [*TINY, "game.oracle={vocabulary: 12, length: 5, sequences: 64, hidden: 8}"]
    run = Run(tmp_path / "run")
    train(load_recipe("seqgan-oracle", overrides), run)
    assert any("oracle_nll" in entry for entry in run.read_log())
    with pytest.raises(ExportError, match="train on a corpus to export a model"):
        export_run(run, "oracle", tmp_path / "models")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.flip=true"], r"data\.flip does not apply to text"),
        (["classes=3"], "does not support classes"),
        (["discriminator.widths=[99]"], "wider than the sequences"),
        (["generator={network: mlp}"], "needs a generator of text; mlp generates images"),
        (["game.inverse_temperature=0.5"], "at least 1"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("seqgan-emoji", overrides)
