"""Compile the .proto files of the service to the descriptors that it builds its messages from."""

import tempfile
from pathlib import Path

from grpc_tools import protoc

FOLDER = Path(__file__).parent.parent / "service/api/grpc"
COMPILED = FOLDER / "descriptors.binpb"


def compile_descriptors() -> bytes:
    """Return the serialized FileDescriptorSet of all .proto files of the service."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors.binpb"
        sources = sorted(path.name for path in FOLDER.glob("*.proto"))
        arguments = ["protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", *sources]
        if protoc.main(arguments):
            raise SystemExit("protoc failed: see above")
        return out.read_bytes()


if __name__ == "__main__":
    COMPILED.write_bytes(compile_descriptors())
