"""Files of wheels, which pip downloads from an index in a folder."""

import hashlib
import zipfile

import pytest

from service.pull.archives import ArchiveError
from service.pull.cache import RemoteFile, fetch
from service.pull.checksums import ChecksumMismatch
from service.pull.locations import Location
from service.pull.transfer import DownloadFailed

WEIGHTS = b"weights" * 1000


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch):
    """A folder of wheels that pip uses in place of an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    files = {
        "some_models/g.pth": WEIGHTS,
        "some_models/g.param": b"layers",
        "some_models/g.bin": b"more weights",
        "some_models/__init__.py": b"raise SystemExit('executed')",
        "some_models-1.0.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: some-models\nVersion: 1.0\n"
        ),
        "some_models-1.0.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "some_models-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "some_models-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    # A constraint for another version must not matter.
    (tmp_path / "constraints.txt").write_text("some-models==2.0\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    return folder


def remote(text):
    return RemoteFile(Location.parse(text))


def test_extracts_and_verifies_a_file(fetching, index):
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    address = f"pypi:some-models==1.0/some_models/g.pth#sha256={sha256}"
    (file,) = fetch([remote(address)], fetching)
    assert (file.path.name, file.path.read_bytes()) == ("g.pth", WEIGHTS)
    # A version on an index does not change, so that the cache needs no index.
    (index / "some_models-1.0-py3-none-any.whl").unlink()
    (again,) = fetch([remote(address)], fetching)
    assert again.was_cached


def test_two_files_of_a_package_need_one_download(fetching):
    messages = []
    location = Location.parse("pypi:some-models==1.0/some_models/g.param")
    files = [RemoteFile(location), RemoteFile(location.sibling(".bin"))]
    local = fetch(files, type(fetching)(10**9, report=messages.append))
    assert [each.path.name for each in local] == ["g.param", "g.bin"]
    assert messages == ["pip downloads some-models==1.0"]


def test_wrong_checksum_is_refused(fetching):
    with pytest.raises(ChecksumMismatch):
        fetch([remote(f"pypi:some-models==1.0/some_models/g.pth#sha256={'0' * 64}")], fetching)


def test_damaged_wheel_is_not_kept(fetching, cache):
    files = [remote("pypi:some-models==1.0/some_models/g.pth")]
    fetch(files, fetching)
    (wheel,) = cache.rglob("*.whl")
    content = wheel.read_bytes()
    wheel.write_bytes(content.replace(WEIGHTS, b"W" + WEIGHTS[1:]))
    refreshing = type(fetching)(10**9, refresh=True)
    with pytest.raises(ArchiveError, match="damaged"):
        fetch(files, refreshing)
    (file,) = fetch(files, refreshing)
    assert file.path.read_bytes() == WEIGHTS


@pytest.mark.parametrize("address", ["pypi:some-models==1.0", "pypi:some-models==1.0/g.pth"])
def test_names_the_files_of_a_package(fetching, address):
    with pytest.raises(DownloadFailed, match=r"some_models/g\.pth, some_models/g\.param"):
        fetch([remote(address)], fetching)


def test_unknown_version_is_one_clear_error(fetching):
    with pytest.raises(DownloadFailed, match=r"some-models==9\.9: .*only wheels"):
        fetch([remote("pypi:some-models==9.9/g.pth")], fetching)


def test_source_distributions_are_never_built(fetching, index, tmp_path):
    import tarfile

    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    with tarfile.open(index / "evil-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "setup.py", "evil-1.0/setup.py")
    with pytest.raises(DownloadFailed, match="only wheels"):
        fetch([remote("pypi:evil==1.0/g.pth")], fetching)
    assert not (tmp_path / "executed").exists()
