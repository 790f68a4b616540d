"""Downloads over HTTP: resumed, verified, cached and limited."""

import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.pull import transfer
from service.pull.cache import Fetching, RemoteFile, fetch
from service.pull.checksums import Checksum, ChecksumMismatch, Kind
from service.pull.http import assert_secure
from service.pull.locations import Location
from service.pull.transfer import DownloadFailed
from tests.support.file_servers import FileServer, running

CONTENT = random.Random(1).randbytes(600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PIN = Checksum(Kind.SHA256, SHA256)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Attempts follow each other at once."""
    monkeypatch.setattr(transfer, "_FIRST_PAUSE_S", 0.0)


@pytest.fixture
def server():
    with running(FileServer({"/g.pth": CONTENT})) as server:
        yield server


def remote(server, path="/g.pth", checksum=PIN, size=None):
    return RemoteFile(Location.parse(f"{server.url}{path}"), checksum, size)


def test_verified_file_is_cached(server, fetching, cache):
    (first,) = fetch([remote(server)], fetching)
    assert first.path.read_bytes() == CONTENT
    assert (first.path.name, first.sha256, first.was_cached) == ("g.pth", SHA256, False)
    assert first.path.is_relative_to(cache)
    (second,) = fetch([remote(server)], fetching)
    assert (second.path, second.was_cached) == (first.path, True)
    assert len(server.requests) == 1
    # An importer looks at the files beside a checkpoint.
    assert [each.name for each in first.path.parent.iterdir()] == ["g.pth"]


def test_damaged_file_in_the_cache_is_downloaded_again(server, fetching):
    (first,) = fetch([remote(server)], fetching)
    first.path.write_bytes(CONTENT[:-1] + b"x")
    (second,) = fetch([remote(server)], fetching)
    assert second.path.read_bytes() == CONTENT
    assert not second.was_cached


def test_refresh_downloads_again(server):
    for _ in range(2):
        fetch([remote(server)], Fetching(10**9, refresh=True))
    assert server.offsets("/g.pth") == [0, 0]


def test_cut_connection_is_resumed(server, fetching):
    server.cuts["/g.pth"] = [100_000, 200_000]
    (file,) = fetch([remote(server)], fetching)
    assert file.path.read_bytes() == CONTENT
    assert server.offsets("/g.pth") == [0, 100_000, 300_000]


def test_failed_download_continues_in_the_next_call(server, fetching):
    server.cuts["/g.pth"] = [250_000] + [0] * 5
    with pytest.raises(DownloadFailed, match=r"250\.0 kB are kept"):
        fetch([remote(server)], fetching)
    server.requests.clear()
    (file,) = fetch([remote(server)], fetching)
    assert file.path.read_bytes() == CONTENT
    assert server.offsets("/g.pth") == [250_000]


def test_server_without_ranges_sends_the_whole_file_again(server, fetching):
    server.ranges = False
    server.cuts["/g.pth"] = [250_000]
    (file,) = fetch([remote(server)], fetching)
    assert file.path.read_bytes() == CONTENT


@pytest.mark.parametrize("with_etag", [True, False])
def test_partial_file_of_another_version_is_discarded(server, fetching, with_etag):
    server.with_etag = with_etag
    server.cuts["/g.pth"] = [250_000] + [0] * 5
    with pytest.raises(DownloadFailed):
        fetch([remote(server, checksum=None)], fetching)
    changed = server.files["/g.pth"] = CONTENT[::-1]
    (file,) = fetch([remote(server, checksum=None)], fetching)
    assert file.path.read_bytes() == changed


def test_unpinned_file_is_used_while_it_is_unchanged(server, fetching):
    (first,) = fetch([remote(server, checksum=None)], fetching)
    (second,) = fetch([remote(server, checksum=None)], fetching)
    assert (first.was_cached, second.was_cached) == (False, True)
    server.files["/g.pth"] = CONTENT + b"more"
    (third,) = fetch([remote(server, checksum=None)], fetching)
    assert third.path.read_bytes() == CONTENT + b"more"


def test_wrong_checksum_deletes_the_download(server, fetching, cache):
    server.files["/g.pth"] = CONTENT + b"x"
    with pytest.raises(ChecksumMismatch, match=f"expected sha256:{SHA256}"):
        fetch([remote(server)], fetching)
    assert not list((cache / "downloads").glob("*/*"))


def test_wrong_size_is_named(server, fetching):
    with pytest.raises(ChecksumMismatch, match="600,000 bytes, expected 7"):
        fetch([remote(server, checksum=None, size=7)], fetching)


def test_checksum_of_the_address_counts(server, fetching):
    location = Location.parse(f"{server.url}/g.pth#sha256={'0' * 64}")
    with pytest.raises(ChecksumMismatch):
        fetch([RemoteFile(location)], fetching)


def test_follows_redirects(server, fetching):
    server.redirects["/latest"] = "/g.pth"
    (file,) = fetch([remote(server, "/latest")], fetching)
    assert file.path.read_bytes() == CONTENT


def test_endless_redirects_are_an_error(server, fetching):
    server.redirects["/loop"] = "/loop"
    with pytest.raises(DownloadFailed, match="redirects more than"):
        fetch([remote(server, "/loop")], fetching)


def test_redirect_to_another_kind_of_address_is_refused(server, fetching):
    server.redirects["/local"] = "file:///etc/hostname"
    with pytest.raises(DownloadFailed, match="not secure"):
        fetch([remote(server, "/local")], fetching)


def test_redirect_to_a_malformed_host_is_one_clear_error(server, fetching):
    server.redirects["/a"] = "http://a..b/g.pth"
    with pytest.raises(DownloadFailed, match="label empty or too long"):
        fetch([remote(server, "/a")], fetching)


def test_https_never_redirects_to_http():
    https, http = httpx.URL("https://a.org/x"), httpx.URL("http://a.org/x")
    assert_secure("x", https, https)
    assert_secure("x", http, https)
    with pytest.raises(DownloadFailed, match="not secure"):
        assert_secure("x", https, http)


def test_missing_file_is_one_clear_error(server, fetching):
    with pytest.raises(DownloadFailed, match=r"/none\.pth: the server responded with 404"):
        fetch([remote(server, "/none.pth")], fetching)
    assert len(server.requests) == 1


def test_web_page_is_not_a_file(server, fetching):
    server.files["/page.pth"] = b"<html>"
    server.types["/page.pth"] = "text/html; charset=utf-8"
    with pytest.raises(DownloadFailed, match="is a web page"):
        fetch([remote(server, "/page.pth")], fetching)


def test_busy_server_is_asked_again(server, fetching):
    server.refusals["/g.pth"] = [(503, {"retry-after": "0"}), (429, {}), (500, {})]
    (file,) = fetch([remote(server)], fetching)
    assert file.path.read_bytes() == CONTENT


def test_unreachable_server_is_one_clear_error(fetching):
    with running(FileServer({})) as server:
        pass
    with pytest.raises(DownloadFailed, match="the connection failed"):
        fetch([remote(server)], fetching)


def test_limit_is_stated(server):
    with pytest.raises(DownloadFailed, match=r"at least 600\.0 kB; the limit is 100\.0 kB"):
        fetch([remote(server)], Fetching(100_000))


def test_more_than_the_free_space_is_refused_before_the_download(server):
    server.declared["/g.pth"] = 10**17
    with pytest.raises(DownloadFailed, match="are free"):
        fetch([remote(server)], Fetching(10**18))


def test_concurrent_calls_download_once(server, fetching):
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(fetch, [remote(server)], fetching) for _ in range(4)]
        files = [call.result()[0] for call in calls]
    assert sorted(file.was_cached for file in files) == [False, True, True, True]
    assert len(server.requests) == 1


def test_files_of_a_model_are_beside_each_other(server, fetching):
    server.files["/g.bin"] = b"weights"
    files = fetch([remote(server), remote(server, "/g.bin", checksum=None)], fetching)
    assert files[0].path.parent == files[1].path.parent


def test_damaged_index_is_ignored(server, fetching, cache):
    fetch([remote(server)], fetching)
    (index,) = (cache / "downloads").glob("*.json")
    for text in ("{", "[]", json.dumps({"g.pth": 1})):
        index.write_text(text)
        (file,) = fetch([remote(server)], fetching)
        assert file.path.read_bytes() == CONTENT


def test_password_is_not_shown(fetching):
    with running(FileServer({})) as server:
        address = f"http://user:secret@127.0.0.1:{server.port}/g.pth?token=secret"
        with pytest.raises(DownloadFailed) as raised:
            fetch([RemoteFile(Location.parse(address))], fetching)
    assert "secret" not in str(raised.value)
