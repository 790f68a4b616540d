"""The protobuf messages of the gRPC services.

They are built from `descriptors.binpb`, which `make protobuf` compiles from the .proto files of
this folder, instead of from generated code: generated code fits a range of versions of protobuf,
and registers its messages for the whole process, where those of another package with the same
names, such as Triton's client, would be refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from service.api.problems import Problem

# Maximum fields of a message, at any depth: an empty one takes two bytes, but a hundred times that
# once it is parsed. Numbers of a repeated field count once, because clients pack them.
MAX_FIELDS = 2**14
_FILE = Path(__file__).with_name("descriptors.binpb")
_pool = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(_FILE.read_bytes()).file:
    _pool.Add(_file)


def message_class(name: str) -> Any:
    """Return the class of the message with this full name."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


def service(name: str) -> ServiceDescriptor:
    """Return the service with this full name."""
    return _pool.FindServiceByName(name)


def parse(message_type: type[Message], data: bytes) -> Any:
    """Parse a message. Raises Problem (400)."""
    try:
        _count_fields(memoryview(data), message_type.DESCRIPTOR, MAX_FIELDS)
        return message_type.FromString(data)
    except (DecodeError, IndexError) as error:
        raise Problem(
            400,
            "invalid-message",
            "The message is invalid",
            f"the data is not a {message_type.DESCRIPTOR.full_name}: {error}",
        ) from error


def _count_fields(data: memoryview, descriptor: Descriptor, left: int) -> int:
    """Return how many of `left` fields remain after those of a message, at any depth.

    Raises Problem (400) if the message has more, and IndexError if it is truncated.
    """
    position = 0
    while position < len(data):
        if (left := left - 1) < 0:
            raise Problem(
                400,
                "invalid-message",
                "The message is invalid",
                f"more than {MAX_FIELDS:,} fields; send packed numbers or raw_input_contents",
            )
        tag, position = _varint(data, position)
        match tag & 7:  # The wire type of protobuf's encoding.
            case 0:
                _, position = _varint(data, position)
            case 1:
                position += 8
            case 2:
                size, position = _varint(data, position)
                field = descriptor.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    left = _count_fields(data[position : position + size], field.message_type, left)
                position += size
            case 5:
                position += 4
            case _:
                # Proto3 has no groups, and others are invalid.
                raise DecodeError(f"unexpected wire type {tag & 7}")
    return left


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a number of variable length, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return value, position
