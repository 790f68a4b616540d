import pytest
from pydantic import ValidationError

from service.api.field_errors import describe_field_errors
from service.api.schemas.generate import GenerateRequest
from service.api.schemas.interpolate import InterpolateRequest
from service.api.schemas.mix_styles import MixStylesRequest
from service.api.schemas.sample_classes import SampleClassesRequest

MIX = {"model": "m", "rows": [1], "columns": [2]}


def field_errors(schema, body) -> dict[str, str]:
    with pytest.raises(ValidationError) as raised:
        schema.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in raised.value.errors()]
    return {each["field"]: each["message"] for each in describe_field_errors(errors, body)}


@pytest.mark.parametrize(
    ("schema", "body", "names"),
    [
        (GenerateRequest, [], {"body"}),
        (GenerateRequest, {}, {"model"}),
        (GenerateRequest, {"model": "m", "sede": 1, "n": 0}, {"sede", "n"}),
        (GenerateRequest, {"model": "m", "truncation": "x"}, {"truncation"}),
        (GenerateRequest, {"model": "m", "truncation": [1, "x"]}, {"truncation.1"}),
        (GenerateRequest, {"model": "m", "class": None, "seeds": [1, -1]}, {"seeds.1"}),
        (GenerateRequest, {"model": "m", "class": [["bag"]]}, {"class.0"}),
        (GenerateRequest, {"model": "m", "z": [[1, "x"]]}, {"z.0.1"}),
        (GenerateRequest, {"model": "m", "z": [None]}, {"z.0"}),
        (GenerateRequest, {"model": "m", "w": [[[1], "x"]]}, {"w.0.1", "w.0.0"}),
        (GenerateRequest, {"model": "m", "images": [{"sede": 1}]}, {"images.0.sede"}),
        (SampleClassesRequest, {"model": "m", "classes": {"bag": 0}}, {"classes.bag"}),
        (InterpolateRequest, {"model": "m", "sources": [1, {"class": []}]}, {"sources.1.class"}),
        (InterpolateRequest, {"model": "m", "sources": [1, True]}, {"sources.1"}),
        (MixStylesRequest, MIX | {"layers": "nope"}, {"layers"}),
        (MixStylesRequest, MIX | {"layers": ["coarse", -1]}, {"layers.1"}),
        (MixStylesRequest, MIX | {"layers": {"coarse": 2}}, {"layers.coarse"}),
        (GenerateRequest, {"model": "m", "x" * 10_000: 1}, {"x" * 200}),
    ],
)
def test_errors_name_request_fields(schema, body, names):
    assert set(field_errors(schema, body)) == names


def test_union_alternatives_share_one_message():
    errors = field_errors(InterpolateRequest, {"model": "m", "sources": [1, "x"]})
    assert errors == {"sources.1": "Input should be a valid integer; or: Input should be an object"}
