"""The file of API keys, and `ganymede keys`."""

import concurrent.futures
import hashlib
import json
import re
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from service.api_keys import KeyRing, KeysError, add_key, parse_expiry, read_keys, revoke_key
from tests.support.servers import ganymede


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def command(*flags, code=0):
    process = subprocess.run(ganymede("keys", *flags), capture_output=True, text=True, check=False)
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    return process


def test_file_holds_hashes_and_is_private(file):
    secret = add_key(file, "app", pixels_per_minute=5, admin=True)
    assert re.fullmatch(r"gnm_[0-9a-f]{8}_[\w-]{43}", secret)
    text = file.read_text()
    assert secret not in text
    assert secret.rpartition("_")[2] not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (key,) = read_keys(file)
    assert key.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert (key.name, key.admin, key.pixels_per_minute) == ("app", True, 5)


def test_finds_exact_keys_only(file):
    secret, other = add_key(file, "a"), add_key(file, "b")
    ring = KeyRing(file)
    assert ring.find(secret).name == "a"
    assert ring.find(other).name == "b"
    swapped = secret[:13] + other[13:]
    for invalid in (
        swapped,
        secret[:-1],
        secret + "x",
        secret.upper(),
        "",
        "gnm_",
        "日本",
        "\udcff",
    ):
        assert ring.find(invalid) is None


def test_changes_apply_immediately(file):
    first = add_key(file, "first")
    ring = KeyRing(file)
    second = add_key(file, "second")
    assert ring.find(second).name == "second"
    revoke_key(file, "first")
    assert ring.find(first) is None
    assert ring.find(second).name == "second"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": [{"name": "x"}]}', '{"keys": 1}'])
def test_broken_file_keeps_last_keys(file, text):
    secret = add_key(file, "app")
    ring = KeyRing(file)
    file.write_text(text)
    assert ring.find(secret).name == "app"
    with pytest.raises(KeysError) as error:
        read_keys(file)
    assert len(str(error.value).splitlines()) == 1
    # If the file is invalid from the start, no key is valid.
    assert KeyRing(file).find(secret) is None


def test_deleted_file_keeps_last_keys(file):
    secret = add_key(file, "app")
    ring = KeyRing(file)
    file.unlink()
    assert ring.find(secret).name == "app"


def test_rejects_expired_key(file):
    secret = add_key(file, "app", expires=datetime.now(UTC) + timedelta(hours=1))
    assert KeyRing(file).find(secret)
    document = json.loads(file.read_text())
    document["keys"][0]["expires"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    file.write_text(json.dumps(document))
    assert KeyRing(file).find(secret) is None


def test_rejects_duplicates(file):
    add_key(file, "app")
    with pytest.raises(KeysError, match="revoke it first"):
        add_key(file, "app")
    document = json.loads(file.read_text())
    file.write_text(json.dumps({"keys": document["keys"] * 2}))
    with pytest.raises(KeysError, match="the same name"):
        read_keys(file)


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 65, "a/b", "ä", "a\n"])
def test_rejects_invalid_names(file, name):
    with pytest.raises(KeysError, match="NAME"):
        add_key(file, name)
    assert not file.exists()


def test_concurrent_commands_lose_nothing(file):
    names = [f"key-{i}" for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        processes = list(pool.map(lambda name: command("add", name, "--keys", file), names))
    assert {key.name for key in read_keys(file)} == set(names)
    ring = KeyRing(file)
    assert [ring.find(process.stdout.strip()).name for process in processes] == names


def test_parse_expiry():
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert parse_expiry("30d", now) == now + timedelta(days=30)
    assert parse_expiry("90m", now) == now + timedelta(minutes=90)
    assert parse_expiry("2w", now) == now + timedelta(weeks=2)
    assert parse_expiry("2030-01-31", now) == datetime(2030, 1, 31, tzinfo=UTC)
    assert parse_expiry("2030-01-31T10:00+02:00", now).hour == 8
    for invalid in ("soon", "", "-3d", "999999w", "2030-13-01"):
        with pytest.raises(KeysError, match="--expires"):
            parse_expiry(invalid, now)


def test_command_adds_lists_and_revokes(file):
    secret = command("add", "app", "--keys", file, "--expires", "30d", "--admin").stdout.strip()
    assert KeyRing(file).find(secret).admin
    listed = command("list", "--keys", file).stdout
    assert "app" in listed
    assert secret not in listed
    (row,) = json.loads(command("list", "--json", "--keys", file).stdout)
    assert (row["name"], row["admin"], row["expired"]) == ("app", True, False)
    assert "sha256" not in row
    command("revoke", "app", "--keys", file)
    assert read_keys(file) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["add", "app"], "--keys FILE"),
        (["list", "--keys", "/nowhere/keys.json"], "cannot be read"),
        (["revoke", "app", "--keys", "/nowhere/keys.json"], "no such file"),
        (["add", "app", "--keys", "/proc/keys.json"], "cannot be changed"),
        (["add", "app", "--expires", "yesterday", "--keys", "/tmp/x/keys.json"], "--expires"),
        (["add", "app", "--pixels-per-minute", "0", "--keys", "/tmp/x/keys.json"], "--pixels"),
    ],
)
def test_bad_input_gives_one_line_error(flags, expected):
    process = command(*flags, code=2)
    assert expected in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_clock_that_is_set_back_does_not_revive_keys(tmp_path):
    now = datetime.now(UTC).replace(microsecond=0)
    secret = add_key(tmp_path / "keys.json", "app", expires=now + timedelta(hours=1))
    times = iter([now, now, now + timedelta(hours=2), now])
    keys = KeyRing(tmp_path / "keys.json", lambda: next(times))
    assert keys.find(secret) is not None
    assert keys.find(secret) is None
    assert keys.find(secret) is None
