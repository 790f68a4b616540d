"""Evaluation of runs and models of text."""

import json
import math

import pytest
import torch

from training.checkpoints import Checkpoint
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import (
    EvaluationSettings,
    compare_results,
    evaluate_targets,
    open_target,
)
from training.evaluation.report.recording import record_figures
from training.evaluation.report.zoo import write_zoo
from training.evaluation.text.evaluation import TEMPERATURES
from training.export.exporter import export_run, load_generator
from training.games.text.generation import counted, inputs_of
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

COLORS = ("red", "tan", "old", "dim")
THINGS = ("cat", "dog", "hat", "cup", "ant", "owl", "bee", "fox")
LINES = [f"{color} {thing}{i}" for color in COLORS for thing in THINGS for i in range(3)]
TINY = [
    "generator.hidden=12",
    "game.corpus.unit=character",
    "discriminator.filters=4",
    "discriminator.widths=[1,2]",
    "train.batch=8",
    "game.discriminator_steps=1",
    "game.pretrain_images=32",
    "game.pretrain_discriminator_images=8",
    "game.corpus.max_length=9",
    "train.images=64",
    "train.loggers=[]",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "lines.txt").write_text("\n".join(LINES))
    run = Run(folder / "run")
    train(load_recipe("seqgan-emoji", [*TINY, f"data.path={folder / 'lines.txt'}"]), run)
    return run


def test_run_is_compared_with_its_maximum_likelihood_generator(run, tmp_path):
    target = open_target(str(run.folder), tmp_path)
    (result,) = evaluate_targets([target], EvaluationSettings(samples=40))
    *generated, real = result.rows
    names = ["adversarial", "maximum likelihood"]
    assert [(row.generator, row.temperature) for row in generated] == [
        (name, temperature) for name in names for temperature in TEMPERATURES
    ]
    assert real.values["distinct"] == 1
    document = json.loads(json.dumps(result.to_json()))
    assert len(document["figures"]) == 5 * len(generated)
    assert "maximum likelihood" in str(result.summary())
    assert len(compare_results([result, result]).summary.parts) == 3


def test_likelihood_is_that_of_the_network(run, tmp_path):
    target = open_target(str(run.folder), tmp_path)
    (result,) = evaluate_targets([target], EvaluationSettings(samples=40))
    generator = load_generator(run.recipe(), Checkpoint.load(run.checkpoint_path))
    rows = torch.from_numpy(target.data.held_out)
    with torch.no_grad():
        logits = generator(inputs_of(rows))[..., : len(target.data.vocabulary)]
    log_p = logits.log_softmax(2).gather(2, rows[..., None]).squeeze(2)
    expected = -float(log_p[counted(rows, ends=True)].mean())
    by_title = {row.title: row.values["nll"] for row in result.rows[:-1]}
    assert math.isclose(by_title["adversarial, temperature 1"], expected, rel_tol=1e-5)


def test_figures_are_recorded_on_the_card(run, tmp_path):
    folder = export_run(run, "lines", tmp_path)
    target = open_target(str(run.folder), tmp_path)
    (result,) = evaluate_targets([target], EvaluationSettings(samples=40))
    record_figures(folder, result.digest, result.figures)
    card = (folder / "README.md").read_text()
    row = result.rows[1]
    assert row.title == "adversarial, temperature 0.8"
    assert (
        f"| Adversarial, temperature 0.8 | NLL per token {row.values['nll']:.3f}, "
        f"BLEU-4 {row.values['bleu']:.3f}, self-BLEU-4 {row.values['self_bleu']:.3f}, " in card
    )
    assert card.count("| Maximum likelihood, temperature ") == len(TEMPERATURES)
    real = result.rows[-1].values
    assert f"| Training texts | BLEU-4 {real['bleu']:.3f}, " in card
    assert "| Measured on | 40 samples against " in card
    write_zoo(tmp_path, tmp_path / "zoo.md")
    page = (tmp_path / "zoo.md").read_text()
    assert (
        f"| adversarial, temperature 0.8 | {row.values['nll']:.3f} | {row.values['bleu']:.3f} | "
        in page
    )
    assert f"| training texts |  | {real['bleu']:.3f} | " in page
    assert "| Output | text, at most 9 characters |" in page
    assert " texts/s |" in page


def test_other_texts_are_refused(run, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n".join([*LINES, "red emu"]))
    with pytest.raises(DataError, match="these texts differ"):
        open_target(str(run.folder), tmp_path, data=str(other))


def test_models_need_their_recipe(run, tmp_path):
    folder = export_run(run, "lines", tmp_path)
    manifest = json.loads((folder / "model.json").read_text())
    manifest["provenance"]["recipe"] = "my-own"
    (folder / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(QualityError, match="evaluate its run instead"):
        open_target("lines", tmp_path)
