"""An S3 server on the loopback interface, with one bucket."""

import contextlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "bucket"


@dataclass
class ObjectStore:
    """`environment` are the variables with which programs use the store."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "access-key-id",
            "AWS_SECRET_ACCESS_KEY": "secret-access-key",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="access-key-id",
            aws_secret_access_key="secret-access-key",
            region_name="us-east-1",
        )

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def files(self, prefix: str) -> dict[str, bytes]:
        """The objects below `prefix`, by their names relative to it."""
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {
            each["Key"].removeprefix(prefix): self.client.get_object(
                Bucket=BUCKET, Key=each["Key"]
            )["Body"].read()
            for each in found
        }


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = ObjectStore(f"http://{host}:{port}")
        store.client.create_bucket(Bucket=BUCKET)
        yield store
    finally:
        server.stop()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """A ZIP archive of `files`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()
