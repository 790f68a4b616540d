"""Archives on web servers, which may redirect."""

import pytest

from service.offline.inputs import InputError, Inputs
from service.offline.untrusted.limits import InputLimits
from tests.support.file_servers import FileServer, running
from tests.support.object_stores import zip_of


def test_archive_is_read_and_redirect_is_refused():
    files = {"/a.zip": zip_of({"1.png": b"one"})}
    with running(FileServer(files, redirects={"/away/a.zip": "/a.zip"})) as server:
        url = server.url
        inputs = Inputs(f"{url}/a.zip", limits=InputLimits())
        assert (inputs.names, inputs.read(0)) == (("a/1.png",), b"one")
        server.requests.clear()
        with pytest.raises(InputError, match=r"redirects are not followed|does not exist"):
            Inputs(f"{url}/away/a.zip", limits=InputLimits())
        assert {path for path, _ in server.requests} == {"/away/a.zip"}
        # A command follows it, as a browser does.
        assert Inputs(f"{url}/away/a.zip").names == ("a/1.png",)


def test_only_archives_of_a_web_server_are_read():
    with running(FileServer({"/x/": b"<a href='/x/a.png'>"})) as server:
        with pytest.raises(InputError, match="expected a ZIP archive or tar file"):
            Inputs(f"{server.url}/x/", limits=InputLimits())
        assert server.requests == []
        with pytest.raises(InputError, match="does not exist"):
            Inputs(f"{server.url}/none.zip", limits=InputLimits())
