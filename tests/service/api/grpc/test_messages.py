import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import service_pb2 as triton

from scripts.protobuf import COMPILED, compile_descriptors
from service.api.grpc import messages
from service.api.problems import Problem

PACKAGE = "inference"
InferRequest = messages.message_class("inference.ModelInferRequest")


def descriptor_set(data: bytes) -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(data)


def test_descriptors_are_compiled_from_the_sources():
    """`make protobuf` compiles them again."""
    assert descriptor_set(COMPILED.read_bytes()) == descriptor_set(compile_descriptors())


def all_messages(container):
    for message in container:
        yield message
        yield from all_messages(message.nested_type)


def described(field: FieldDescriptor) -> tuple:
    refers = field.message_type or field.enum_type
    return field.number, field.type, field.is_repeated, refers and refers.full_name


def test_fields_are_those_of_the_protocol():
    """Triton's client has generated code for the same messages."""
    (file,) = (f for f in descriptor_set(COMPILED.read_bytes()).file if f.package == PACKAGE)
    compared = 0
    for message in file.message_type:
        for name in [message.name, *(f"{message.name}.{n.name}" for n in message.nested_type)]:
            own = messages.message_class(f"{PACKAGE}.{name}").DESCRIPTOR
            theirs = triton.DESCRIPTOR.pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
            for field in own.fields:
                assert described(field) == described(theirs.fields_by_name[field.name]), name
                compared += 1
    assert compared > 50
    (enum,) = file.enum_type
    theirs = triton.DESCRIPTOR.pool.FindEnumTypeByName(f"{PACKAGE}.{enum.name}")
    assert all(theirs.values_by_name[each.name].number == each.number for each in enum.value)


def test_methods_are_those_of_the_protocol():
    own = messages.service("inference.GRPCInferenceService")
    theirs = triton.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in own.methods:
        other = theirs.methods_by_name[method.name]
        for side in ("input_type", "output_type"):
            assert getattr(method, side).full_name == getattr(other, side).full_name


def refused(data: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        messages.parse(InferRequest, data)
    return caught.value


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0a\x05ab", b"\x2a\x03\x0a\xff", b"\x0b", b"\x80" * 20]
)
def test_invalid_data_is_refused(data):
    assert refused(data).kind == "invalid-message"


@pytest.mark.parametrize(
    "data",
    [
        # Empty inputs, empty raw contents, and empty parameters of one input.
        b"\x2a\x00" * 20_000,
        b"\x3a\x00" * 20_000,
        b"\x2a\xc0\xb8\x02" + b"\x22\x00" * 20_000,
    ],
)
def test_many_small_parts_are_refused_before_they_are_parsed(data):
    assert "fields" in refused(data).detail


def test_many_numbers_are_one_field():
    request = InferRequest()
    request.inputs.add(name="z").contents.fp32_contents.extend([1.5] * 100_000)
    parsed = messages.parse(InferRequest, request.SerializeToString())
    assert len(parsed.inputs[0].contents.fp32_contents) == 100_000
