"""Errors are said of what was sent, whatever pydantic calls it."""

import pytest
from pydantic import ValidationError

from service.api.field_errors import wrong_fields
from service.api.schemas import (
    GenerateRequest,
    InterpolateRequest,
    MixStylesRequest,
    SampleClassesRequest,
)

MIX = {"model": "m", "rows": [1], "columns": [2]}


def fields(kind, body) -> dict[str, str]:
    with pytest.raises(ValidationError) as wrong:
        kind.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in wrong.value.errors()]
    return {said["field"]: said["message"] for said in wrong_fields(errors, body)}


@pytest.mark.parametrize(
    ("kind", "body", "names"),
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
def test_what_is_wrong_is_a_field_of_the_request(kind, body, names):
    assert set(fields(kind, body)) == names


def test_what_a_field_may_be_is_said_of_it_at_once():
    said = fields(InterpolateRequest, {"model": "m", "sources": [1, "x"]})
    assert said == {"sources.1": "Input should be a valid integer; or: Input should be an object"}
