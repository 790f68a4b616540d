"""Corpora from files: splits, vocabularies, what is left out, and errors."""

import json
import zipfile

import numpy as np
import pytest

from training.data.images import DataOptions
from training.data.sources import DataError
from training.data.text.corpus import CorpusOptions, load_corpus, read_lines
from training.data.text.vocabulary import END

LINES = [f"the {color} {animal}" for color in ("red", "blue", "old") for animal in "abcdefghij"]


def load(path, **options):
    return load_corpus(DataOptions(path=str(path)), CorpusOptions(**options))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def test_characters_round_trip(corpus):
    data = load(corpus)
    assert sorted([*data.lines, *data.held_out_lines]) == sorted(LINES)
    assert data.tokens.dtype == np.int64
    assert data.tokens.shape == (len(data), 40)
    assert (data.tokens[:, -1] == END).all()


def test_words_round_trip(corpus):
    data = load(corpus, unit="word", max_length=3)
    assert set(data.lines) <= set(LINES)
    assert data.tokens.shape[1] == 3
    assert data.vocabulary.units[1] == "the"


def test_split_does_not_depend_on_the_order(corpus, tmp_path):
    other = tmp_path / "reversed.txt"
    other.write_text("\n".join(reversed(LINES)))
    assert set(load(corpus).held_out_lines) == set(load(other).held_out_lines) != set()


def test_lines_that_cannot_be_used_are_counted(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join([*LINES, *LINES[:5], "", "  ", "z" * 41, "the red ∞"]))
    notes = load(path, min_count=2).notes
    assert "left out: 2 empty lines" in notes
    assert "left out: 5 repeated lines" in notes
    assert any("1 training lines with units that have no token" in note for note in notes)
    assert any("'∞'" in note for note in notes)
    assert any("lines with more than 40 tokens" in note for note in notes)


def test_rare_words_have_no_token(corpus):
    data = load(corpus, unit="word", vocabulary=10)
    assert len(data.vocabulary) == 10
    assert 0 < len(data) < len(LINES)
    assert all(set(line.split()) <= set(data.vocabulary.units) for line in data.lines)


def test_windows_and_unicode_files_are_read(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffeins\r\nzwei\u2028zwei\r\ndrei 😀\r\n".encode())
    assert read_lines(path, "text") == ["eins", "zwei\u2028zwei", "drei 😀"]


def test_metadata_of_an_archive_is_read(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        records = [{"id": str(i), "text": line} for i, line in enumerate(LINES)]
        archive.writestr("metadata.jsonl", "\n".join(map(json.dumps, records)))
    assert read_lines(path, "text") == LINES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", "gr\xfcn".encode("latin-1"), r"not UTF-8 text: byte 0xfc in line 1"),
        ("binary.txt", b"one\ntwo\0", r"line 2 contains a NUL"),
        ("bad.jsonl", b'{"text": "a"}\n{"text"', r"line 2: not JSON"),
        ("field.jsonl", b'{"name": "a"}', r"line 1: expected an object with a text in the field"),
        ("list.jsonl", b"[1]", r"line 1: expected an object"),
        ("empty.txt", b"\n \n", r"none of 2 lines can be used: left out: 2 empty lines"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "missing.txt")
    with pytest.raises(DataError, match=r"has no metadata\.jsonl"):
        load(tmp_path)


def test_empty_file_is_reported(tmp_path):
    (tmp_path / "lines.txt").touch()
    with pytest.raises(DataError, match=r"lines\.txt is empty"):
        load(tmp_path / "lines.txt")


def test_half_of_a_surrogate_pair_is_reported(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "half \\ud83d"}\n')
    with pytest.raises(DataError, match=r"line 2: .*surrogate pair, \\ud83d"):
        load(path)


def test_a_table_is_noted_to_be_read_as_lines(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id,text\n1,hello\n2,world\n")
    assert "table.csv is read as lines of text, with all columns and separators" in load(path).notes
