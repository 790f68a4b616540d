import json

import pytest

from service.api_keys import add_key
from service.doctor.access import check_keys, check_port, is_ganymede
from service.doctor.findings import Status
from service.settings import load_settings
from tests.support.servers import free_port, occupied_port


def keys_finding(path):
    return check_keys(load_settings({"keys": path}))


def test_keys(tmp_path):
    path = tmp_path / "keys.json"
    assert keys_finding(path).status is Status.ERROR
    add_key(path, "phone-app")
    assert keys_finding(path).status is Status.OK
    path.chmod(0o644)
    finding = keys_finding(path)
    assert finding.status is Status.WARNING
    assert finding.advice == f"chmod 600 {path}"
    path.write_text("not keys")
    assert keys_finding(path).status is Status.ERROR


def test_expired_keys(tmp_path):
    path = tmp_path / "keys.json"
    add_key(path, "old")
    content = json.loads(path.read_text())
    content["keys"][0]["expires"] = "2020-01-01T00:00:00Z"
    path.write_text(json.dumps(content))
    finding = keys_finding(path)
    assert (finding.status, finding.text) == (Status.ERROR, f"0 of 1 keys in {path} are valid")


def test_free_port():
    assert check_port("127.0.0.1", free_port()).status is Status.OK


def test_port_of_another_program():
    with occupied_port() as port:
        finding = check_port("127.0.0.1", port)
    assert finding.status is Status.ERROR
    assert "another program" in finding.text
    assert "--port" in finding.advice


def test_port_of_a_running_service(drawn_server):
    port = int(drawn_server.url.rpartition(":")[2])
    finding = check_port("127.0.0.1", port)
    assert finding.status is Status.OK
    assert finding.details == {"serving": True}


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_address_of_another_machine(host):
    assert check_port(host, free_port()).status is Status.ERROR


def test_no_server_is_not_ganymede():
    assert not is_ganymede("127.0.0.1", free_port())
