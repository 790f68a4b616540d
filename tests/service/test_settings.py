"""Settings by flag, by variable and in a file; and options that `serve` rejects."""

import subprocess
from pathlib import Path

import httpx
import pytest

from service.api_keys import add_key
from service.settings import PREFIX, Settings, SettingsError, address_of, load_settings
from tests.support.servers import free_port, ganymede, serving

# A value other than the default for each setting, as a user would type it.
SAMPLES = {
    "models": "/tmp/other-models",
    "provider": "cpu",
    "max_images": "17",
    "max_frames": "18",
    "queue_pixels": "1234567",
    "deadline_s": "12.5",
    "plan": "default",
    "processes": "3",
    "grpc_port": "8001",
    "max_priority": "normal",
    "concurrent_batches": "3",
    "threads": "2",
    "max_rows": "5",
    "memory_budget": "2GiB",
    "watch_s": "2.5",
    "drain_s": "7",
    "hang_s": "70",
    "keys": "/tmp/keys.json",
    "insecure": "1",
    "insecure_admin": "1",
    "open_paths": "/,/metrics",
    "cors_origins": "https://app.example.com,http://localhost:5173",
    "pixels_per_minute": "1000000",
    "max_body_bytes": "100000",
    "max_json_depth": "16",
    "max_header_bytes": "8192",
    "max_upload_pixels": "65536",
    "body_timeout_s": "9",
    "write_timeout_s": "8",
    "c2pa_certificate": "/tmp/chain.pem",
    "c2pa_key": "/tmp/key.pem",
    "c2pa_default": "1",
    "jobs": "/tmp/other-jobs",
    "jobs_keep": "12h",
    "jobs_quota": "2GiB",
    "jobs_outputs": "s3://bucket/results,gs://other",
    "jobs_inputs": "https://images.example.com/public",
    "max_job_upload": "2GiB",
    "max_jobs_per_key": "3",
    "max_job_images": "5000",
    "max_job_pixels": "123456789",
    "max_resized_pixels": "65536",
    "webhook_hosts": "hooks.example.com,http://10.0.0.7:8080/",
    "webhook_secrets": "/tmp/webhook-secrets",
    "max_event_streams": "12",
    "log_format": "text",
    "log_requests": "0",
}


def value_of(name, settings):
    return getattr(settings, name)


def test_samples_cover_every_setting():
    assert set(SAMPLES) == set(Settings.model_fields)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """Remove the settings in environment variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    monkeypatch.delenv("GANYMEDE_CONFIG", raising=False)


@pytest.mark.parametrize("name", SAMPLES)
def test_same_value_by_flag_variable_and_file(monkeypatch, tmp_path, name):
    by_flag = value_of(name, load_settings({name: SAMPLES[name]}))
    assert by_flag != value_of(name, load_settings())
    config = tmp_path / "c.toml"
    config.write_text(f'{name} = "{SAMPLES[name]}"\n')
    assert value_of(name, load_settings(config=config)) == by_flag
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", SAMPLES[name])
    assert value_of(name, load_settings()) == by_flag


def test_precedence(monkeypatch, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("max_images = 1\nmax_frames = 2\nconcurrent_batches = 3\n")
    monkeypatch.setenv("GANYMEDE_MAX_IMAGES", "10")
    monkeypatch.setenv("GANYMEDE_MAX_FRAMES", "20")
    settings = load_settings({"max_images": "100"}, config)
    assert (settings.max_images, settings.max_frames, settings.concurrent_batches) == (100, 20, 3)


def test_environment_reproduces_settings(monkeypatch):
    for chosen in ({}, SAMPLES):
        settings = load_settings(chosen)
        for name, value in settings.to_environment().items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        reloaded = load_settings()
        for name in Settings.model_fields:
            ours, theirs = value_of(name, settings), value_of(name, reloaded)
            if isinstance(ours, Path):
                ours = ours.absolute()
            assert theirs == ours, name


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"max_images": "many"}, "max_images"),
        ({"max_images": "0"}, "max_images"),
        ({"deadline_s": "inf"}, "deadline_s"),
        ({"deadline_s": "nan"}, "deadline_s"),
        ({"provider": "tpu"}, "provider"),
        ({"open_paths": "/v1/models"}, "open_paths"),
        ({"open_paths": "/v2/*"}, "open_paths"),
        ({"open_paths": "/sdapi/*"}, "open_paths"),
        ({"open_paths": "/*"}, "open_paths"),
        ({"open_paths": "docs"}, "open_paths"),
        ({"cors_origins": ["app.example.com"]}, "cors_origins: 'app.example.com' has no scheme"),
        ({"cors_origins": ["https://a.example/x"]}, "cors_origins"),
        ({"cors_origins": "*,https://a.example"}, "cors_origins"),
        ({"log_format": "xml"}, "log_format"),
        ({"processes": "0"}, "processes: expected auto, or a number from 1 to 256"),
        ({"processes": "257"}, "processes"),
        ({"processes": "-1"}, "processes"),
        ({"processes": "x"}, "processes"),
        ({"processes": True}, "processes"),
    ],
)
def test_invalid_value_gives_one_line_error_with_its_name(flags, expected):
    with pytest.raises(SettingsError) as error:
        load_settings(flags)
    assert str(error.value).startswith(expected)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/zoo#sha256=00", "hf://owner/name@main", "https://a.org/b", "file:///srv/zoo"],
)
def test_address_of_a_repository_survives_as_a_path(address):
    assert address_of(Path(address)) == address
    assert address_of(Path("models")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_imges = 3", "did you mean 'max_images'"),
        ("max_images = ", "is not TOML"),
        ("\xff", "is not TOML"),
    ],
)
def test_invalid_file_gives_one_line_error(tmp_path, text, expected):
    config = tmp_path / "c.toml"
    config.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=expected):
        load_settings(config=config)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(config=tmp_path / "nowhere.toml")


def test_old_name_of_concurrent_batches_gives_the_new_one(monkeypatch, tmp_path):
    new = "workers is now concurrent_batches"
    with pytest.raises(SettingsError, match=new):
        load_settings({"workers": "2"})
    config = tmp_path / "c.toml"
    config.write_text("workers = 2\n")
    with pytest.raises(SettingsError, match=new):
        load_settings(config=config)
    monkeypatch.setenv("GANYMEDE_WORKERS", "2")
    with pytest.raises(SettingsError, match=f"GANYMEDE_WORKERS: {new}"):
        load_settings()


def serve(*flags):
    command = ganymede("serve", "--port", str(free_port()), *flags)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--host", "0.0.0.0"], "--insecure"),
        (["--host", "::"], "--insecure"),
        (["--host", "no.such.host.invalid"], "--host"),
        (["--host", "0.0.0.0", "--keys", "/nowhere/keys.json"], "/nowhere/keys.json"),
        (["--max-images", "none"], "max_images"),
        (["--workers", "2"], "concurrent_batches"),
        (
            ["--cors-origin", "https://a.example", "--cors-origin", "b.example"],
            "'b.example' has no",
        ),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_serve_gives_one_line_error_for_bad_options(drawn_repository, flags, expected):
    process = serve("--models", str(drawn_repository), *flags)
    assert process.returncode == 2
    assert expected in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_serve_rejects_file_without_keys(drawn_repository, tmp_path):
    (tmp_path / "keys.json").write_text('{"keys": []}')
    flags = ["--models", str(drawn_repository), "--keys", str(tmp_path / "keys.json")]
    assert "has no keys" in serve(*flags).stderr


def test_insecure_flag(drawn_repository):
    with serving(drawn_repository, "--host", "0.0.0.0", "--insecure") as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 200


@pytest.mark.slow
def test_first_key_is_shown_once(drawn_repository, tmp_path):
    file = tmp_path / "keys.json"
    flags = ["--host", "0.0.0.0", "--keys", str(file), "--first-key"]
    with serving(drawn_repository, *flags) as server:
        log = server.logged()
        key = next(word for word in log.split() if word.startswith("gnm_"))
        headers = {"x-api-key": key}
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
    other = add_key(file, "other")
    with serving(drawn_repository, *flags) as server:
        assert "gnm_" not in server.logged()
        headers = {"x-api-key": other}
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
