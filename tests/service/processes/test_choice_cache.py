import pytest

from service.processes.choice_cache import ChoiceCache


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "models" / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}")
    return tmp_path / "models"


def choice(models, options="threads=0"):
    return ChoiceCache(models, options)


def test_choice_is_found_again(models):
    assert choice(models).get() == 0
    choice(models).put(1)
    assert choice(models).get() == 1


def test_choice_is_for_these_models_and_settings(models):
    choice(models).put(1)
    assert choice(models, "threads=2").get() == 0
    (models / "m" / "1" / "model.json").write_text('{"changed": true}')
    assert choice(models).get() == 0


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_unreadable_cache_is_ignored(models, tmp_path, text):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "processes.json").write_text(text)
    assert choice(models).get() == 0


def test_cache_that_cannot_be_written_is_no_error(models, tmp_path):
    (tmp_path / "cache").write_text("a file")
    choice(models).put(1)
    assert choice(models).get() == 0
