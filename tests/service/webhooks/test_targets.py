"""Which URLs and addresses a webhook may be sent to."""

import pytest

from service.webhooks.targets import (
    PermittedTargets,
    WebhookNotPermitted,
    WebhookRefused,
    WebhookTarget,
    is_public,
)

NAMED = PermittedTargets(["hooks.example.com", "*.example.org", "alt.example.com:8443"])
EXPLICIT = PermittedTargets(["http://10.0.0.7:8080/hooks", "https://[fd00::1]/a/"])


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com",
        "https://HOOKS.example.com:443/path?token=1",
        "https://a.b.example.org/",
        "https://alt.example.com:8443/",
    ],
)
def test_named_hosts_are_permitted_by_https_at_public_addresses(url):
    target = NAMED.find(url)
    assert not target.permits_private
    target.assert_permitted("93.184.216.34")
    with pytest.raises(WebhookNotPermitted, match="not a public address"):
        target.assert_permitted("10.0.0.7")


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://hooks.example.com:8443/",
        "https://alt.example.com/",
        "https://hooks.example.com.evil.example/",
        "https://evilexample.org/",
        "https://example.org/",
        "https://10.0.0.7/",
    ],
)
def test_other_hosts_ports_and_schemes_are_not_permitted(url):
    with pytest.raises(WebhookNotPermitted, match="webhook_hosts"):
        NAMED.find(url)


@pytest.mark.parametrize(
    ("url", "permitted"),
    [
        ("http://10.0.0.7:8080/hooks", True),
        ("http://10.0.0.7:8080/hooks/a", True),
        ("http://10.0.0.7:8080/hooks?a", True),
        ("http://10.0.0.7:8080/hooksmith", False),
        ("http://10.0.0.7:8080/", False),
        ("http://10.0.0.7/hooks", False),
        ("https://10.0.0.7:8080/hooks", False),
        ("https://[fd00::1]/a/b", True),
        ("https://[fd00:0::1]/a/b", False),
        ("https://[fd00::1]/a", False),
    ],
)
def test_urls_permit_what_begins_with_them_also_at_private_addresses(url, permitted):
    if permitted:
        EXPLICIT.find(url).assert_permitted("10.0.0.7")
    else:
        with pytest.raises(WebhookNotPermitted):
            EXPLICIT.find(url)


def test_every_public_host_can_be_permitted():
    target = PermittedTargets(["*"]).find("https://anything.example/")
    assert (target.host, target.permits_private) == ("anything.example", False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "ftp://hooks.example.com/",
        "https:///path",
        "https://user@hooks.example.com/",
        "https://hooks.example.com@evil.example/",
        "https://hooks.example.com\\@evil.example/",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com/#",
        f"https://{64 * 'a'}.example.com/",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\r\nhost: evil",
        "https://hooks.example.com/a/../b",
        "https://hooks.example.com/%2e%2E/b",
        "https://hööks.example.com/",
        "https://hooks_.example.com/",
        "https://[fe80::1%25eth0]/",
        "https://hooks.example.com/" + "a" * 2000,
    ],
)
def test_invalid_urls_are_refused(url):
    with pytest.raises(WebhookRefused) as refused:
        NAMED.find(url)
    assert not isinstance(refused.value, WebhookNotPermitted)


def test_nothing_is_permitted_without_entries():
    with pytest.raises(WebhookNotPermitted, match="sends no webhooks"):
        PermittedTargets([]).find("https://hooks.example.com/")


@pytest.mark.parametrize(
    "entry",
    ["a b", "ex*mple.com", "*.", "host:0", "host:99999", "http://*.example.com/", "ftp://a"],
)
def test_invalid_entries_are_named(entry):
    with pytest.raises(ValueError, match=r"neither|cannot be permitted") as raised:
        PermittedTargets([entry])
    assert repr(entry) in str(raised.value)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://a.example/", "a.example"),
        ("http://a.example:443/", "a.example:443"),
        ("http://[fd00::1]:80/", "[fd00::1]"),
    ],
)
def test_authority_has_the_port_unless_it_is_the_default(url, authority):
    assert WebhookTarget.parse(url).authority == authority


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) is public
