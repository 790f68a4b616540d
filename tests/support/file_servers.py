"""Local servers of files: a web server with faults, a hub, and an object store."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class FileServer:
    """Serves `files` by path. Faults are set by path, and each is used up by one request."""

    files: dict[str, bytes]
    ranges: bool = True
    with_etag: bool = True
    modified: str | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    # The connection ends after so many bytes of a response.
    cuts: dict[str, list[int]] = field(default_factory=dict)
    # Responses before the file is sent: (status, headers).
    refusals: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    # Sizes that are declared instead of the true ones; such a response has no body.
    declared: dict[str, int] = field(default_factory=dict)
    # What was requested: (path, headers).
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def offsets(self, path: str) -> list[int]:
        """The offsets that were requested of a file, 0 for a request of all."""
        ranges = [
            headers.get("range", "bytes=0-") for each, headers in self.requests if each == path
        ]
        return [int(text.removeprefix("bytes=").partition("-")[0]) for text in ranges]

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.send_file(handler, path)

    def send_file(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        if self.refusals.get(path):
            status, headers = self.refusals[path].pop(0)
            return send(handler, status, b"", headers)
        if path in self.redirects:
            return send(handler, 302, b"", {"location": self.redirects[path]})
        if path not in self.files:
            return send(handler, 404, b"not found")
        content = self.files[path]
        if path in self.declared:
            return send(handler, 200, b"", {"content-length": str(self.declared[path])}, cut=0)
        headers = {"content-type": self.types.get(path, "application/octet-stream")}
        if self.with_etag:
            headers["etag"] = f'"{hashlib.md5(content).hexdigest()}"'
        if self.modified is not None:
            headers["last-modified"] = self.modified
        wanted = handler.headers.get("range", "")
        condition = handler.headers.get("if-range")
        status, body = 200, content
        if wanted and self.ranges and condition in (None, headers.get("etag")):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            if int(first) >= len(content):
                return send(
                    handler, 416, b"", headers | {"content-range": f"bytes */{len(content)}"}
                )
            end = min(int(last or len(content) - 1), len(content) - 1)
            status, body = 206, content[int(first) : end + 1]
            headers["content-range"] = f"bytes {first}-{end}/{len(content)}"
        cuts = self.cuts.get(path)
        return send(handler, status, body, headers, cut=cuts.pop(0) if cuts else None)


@dataclass
class Hub(FileServer):
    """The routes of the Hugging Face hub that list and send the files of one repository.

    Files are redirected to the same server under the name localhost, which is another host.
    """

    repository: str = "owner/models"
    commit: str = "0123456789abcdef0123456789abcdef01234567"

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        tree = f"/api/models/{self.repository}/tree/"
        resolve = f"/{self.repository}/resolve/"
        if path.startswith(tree):
            folder = path.removeprefix(tree).partition("/")[2]
            return send(handler, 200, json.dumps(self._entries(folder)).encode())
        if path.startswith(resolve):
            name = path.removeprefix(resolve).partition("/")[2]
            if f"/{name}" not in self.files:
                return send(handler, 404, b"", {"x-error-code": "EntryNotFound"})
            return send(handler, 302, b"", {"location": f"http://localhost:{self.port}/{name}"})
        return self.send_file(handler, path)

    def _entries(self, folder: str) -> list[dict]:
        entries = []
        for path, content in self.files.items():
            name = path.lstrip("/")
            if folder and not name.startswith(f"{folder}/"):
                continue
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry = {"type": "file", "path": name, "size": len(content), "oid": blob}
            if name.endswith(".onnx"):  # Large files are stored in Git LFS.
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries


@dataclass
class ObjectStore(FileServer):
    """The operations of S3 that list and read the objects of one bucket."""

    bucket: str = "bucket"
    modified: str | None = "Thu, 01 Jan 2026 00:00:00 GMT"

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if "list-type" not in query:
            return self.send_file(handler, unquote(parts.path).removeprefix(f"/{self.bucket}"))
        prefix = query.get("prefix", "")
        found = [
            (path.lstrip("/"), content)
            for path, content in sorted(self.files.items())
            if path.lstrip("/").startswith(prefix)
        ]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
            f"<ETag>&quot;{hashlib.md5(content).hexdigest()}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, content in found
        )
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self.bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(found)}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        )
        return send(handler, 200, body.encode(), {"content-type": "application/xml"})

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which clients use this store."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    cut: int | None = None,
) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    if "content-length" not in (headers or {}):
        handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body if cut is None else body[:cut])
    if cut is not None:
        handler.close_connection = True


@contextlib.contextmanager
def running(server: FileServer) -> Iterator[FileServer]:
    """Run a server on a free port of the loopback interface until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            server.requests.append((path, {k.lower(): v for k, v in self.headers.items()}))
            server.respond(self)

        do_HEAD = do_GET  # noqa: N815 - the name in http.server

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
