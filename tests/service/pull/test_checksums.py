"""Kinds of checksums, their syntax, and files that match them."""

import hashlib

import pytest

from service.pull.checksums import Checksum, Kind
from service.runtime.errors import UserError


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "sha256-prefix:5891b5b522d5",
        # What `git hash-object` prints for the file.
        "git-blob:ce013625030ba8dba906f756967f9e9ca394464a",
        "md5:b1946ac92492d2347c6235b4d2611184",
    ],
)
def test_matches_known_digests(hello, text):
    checksum = Checksum.parse(text)
    sha256 = hashlib.sha256(hello.read_bytes()).hexdigest()
    assert str(checksum) == text
    assert checksum.matches(hello, sha256)
    hello.write_bytes(b"hello!")
    assert not checksum.matches(hello, hashlib.sha256(b"hello!").hexdigest())


def test_only_sha256_is_strong():
    assert [kind for kind in Kind if Checksum(kind, "0").is_strong] == [Kind.SHA256]


@pytest.mark.parametrize("text", ["sha256:12", "sha1:00", "md5:xyz", "sha256", "sha256-prefix:1"])
def test_refuses_other_texts(text):
    with pytest.raises(UserError, match="expected"):
        Checksum.parse(text)
