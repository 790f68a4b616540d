"""Signatures of webhooks, verified by the library of the specification."""

import time

import pytest
from standardwebhooks import Webhook

from service.webhooks.signing import SecretsError, SigningSecrets, read_secrets
from tests.support.webhooks import new_secret


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_secret_of_the_file_verifies_the_signature(tmp_path):
    old, new = new_secret(), new_secret()
    secrets = SigningSecrets(write(tmp_path / "secrets", "# the new one first", new, "", old))
    headers = secrets.headers("msg_1", time.time(), '{"a":1}')
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        assert Webhook(secret).verify('{"a":1}', headers) == {"a": 1}


def test_file_is_read_again_when_it_changes(tmp_path):
    old, new = new_secret(), new_secret()
    path = write(tmp_path / "secrets", old)
    secrets = SigningSecrets(path)
    write(path, new, "# changed")
    Webhook(new).verify("{}", secrets.headers("msg_1", time.time(), "{}"))
    write(path, "broken")
    # The last usable secrets stay in use.
    Webhook(new).verify("{}", secrets.headers("msg_1", time.time(), "{}"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has no secrets"),
        ("# only a comment", "has no secrets"),
        ("secret", "line 1"),
        ("whsec_c2hvcnQ=", "24 to 64 bytes"),
        ("whsec_!!!!", "line 1"),
    ],
)
def test_unusable_files_are_refused_without_showing_a_secret(tmp_path, content, reason):
    path = write(tmp_path / "secrets", content)
    with pytest.raises(SecretsError, match=reason) as raised:
        read_secrets(path)
    assert str(path) in str(raised.value)
    assert "c2hvcnQ" not in str(raised.value)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(SecretsError, match="cannot be read"):
        SigningSecrets(tmp_path / "missing")
