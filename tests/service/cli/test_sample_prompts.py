"""`ganymede sample --prompts`: an image for each line of a file."""

import shutil

from tests.support.command import assert_one_line_error, run
from tests.support.output_models import CAPTIONED, ENCODER, MAX_TOKENS, write_output_models
from tests.support.sampling import read_files, read_metadata, run_sample


def test_images_of_prompts(tmp_path):
    models = tmp_path / "models"
    write_output_models(models)
    file = tmp_path / "prompts.txt"
    # Editors on Windows begin a file with a byte order mark, and end lines with \r\n.
    file.write_bytes("abc\r\n\r\n日本語 🦊\r\n".encode("utf-8-sig"))
    options = ("--prompts", str(file), "--seed", "5", "--shard-size", "2")
    run_sample(models, CAPTIONED, tmp_path / "a", *options)
    lines = read_metadata(tmp_path / "a")
    assert [(line["prompt"], line["seed"]) for line in lines] == [
        ("abc", 5),
        ("", 6),
        ("日本語 🦊", 7),
    ]
    file.write_text("xyz\n", encoding="utf-8")
    run_sample(models, CAPTIONED, tmp_path / "b", *options)
    assert (
        read_files(tmp_path / "a")["images/seed-5.png"]
        != (read_files(tmp_path / "b")["images/seed-5.png"])
    )
    refused = run_sample(models, CAPTIONED, tmp_path / "c", "--count", "1", code=2)
    assert "--prompts" in refused.stderr
    refused = run_sample(models, ENCODER, tmp_path / "d", "--count", "1", code=2)
    assert "encodes the prompts of other models" in refused.stderr


def test_truncated_prompts_are_reported(tmp_path):
    models = tmp_path / "models"
    write_output_models(models)
    file = tmp_path / "prompts.txt"
    file.write_text(f"abc\n{'x' * (MAX_TOKENS + 1)}\n", encoding="utf-8")
    process = run_sample(models, CAPTIONED, tmp_path / "a", "--prompts", str(file))
    assert "1 prompts are too long" in process.stdout
    assert "in line 2" in process.stdout


def test_images_of_prompts_are_reproduced(tmp_path):
    models = tmp_path / "models"
    write_output_models(models)
    file = tmp_path / "prompts.txt"
    file.write_text("abc\n日本語 🦊\n", encoding="utf-8")
    run_sample(models, CAPTIONED, tmp_path / "a", "--prompts", str(file))
    images = sorted((tmp_path / "a" / "images").iterdir())
    done = run("reproduce", *images, "--models", models)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("identical, byte for byte") == 2
    shutil.rmtree(models / ENCODER)
    assert_one_line_error(run("reproduce", images[0], "--models", models), 2, "text encoder")
