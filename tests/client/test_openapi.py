"""The methods of the clients and the routes of the OpenAPI document are the same."""

import inspect

import pytest

from ganymede_client import AsyncClient, Client, Job, Model
from ganymede_client.connection import DEADLINE_HEADER, PRIORITY_HEADER
from ganymede_client.wire.calls import DESCRIBED

# Routes for other clients, which do what another method of this client does.
OF_OTHER_CLIENTS = {
    ("POST", "/v1/images/edits"),
    ("POST", "/v1/images/variations"),
    ("GET", "/sdapi/v1/upscalers"),
    ("POST", "/sdapi/v1/extra-single-image"),
    ("POST", "/sdapi/v1/extra-batch-images"),
}
# Arguments that no single field of a request stands for.
BODIES = {"infer": {"inputs"}, "graphs": {"ready"}}


@pytest.fixture(scope="module")
def document(service):
    with service.client() as http:
        return http.get("/openapi.json").json()


def operations(document) -> dict[tuple[str, str], dict]:
    found = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(found) > OF_OTHER_CLIENTS
    return {route: each for route, each in found.items() if route not in OF_OTHER_CLIENTS}


def schemas_of(operation, document) -> dict[str, dict]:
    """The schemas of all parameters by name: in the path, the query, headers and the body."""
    found = {each["name"]: each["schema"] for each in operation.get("parameters", [])}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        found |= schema.get("properties", {})
    return found


def described_parameters(described) -> set[str]:
    names = set(inspect.signature(described.build).parameters)
    names -= BODIES.get(described.build.__name__, set())
    return {described.wire_name(name) for name in names}


def test_every_route_has_a_method_and_every_method_a_route(document):
    covered = {route for described in DESCRIBED.values() for route in described.routes}
    assert covered == set(operations(document))


def test_every_parameter_of_a_method_is_in_the_document(document):
    by_route = operations(document)
    for name, described in DESCRIBED.items():
        known = set()
        for route in described.routes:
            known |= set(schemas_of(by_route[route], document))
        assert described_parameters(described) <= known, name
        assert set(described.left_out) <= known, name


def test_every_parameter_of_a_route_is_one_of_a_method_or_left_out_with_a_reason(document):
    for route, operation in operations(document).items():
        methods = [each for each in DESCRIBED.values() if route in each.routes]
        for each in methods:
            parameters = described_parameters(each)
            assert not parameters & set(each.left_out), (route, each.build.__name__)
            assert all(each.left_out.values())
        offered = set().union(
            *(described_parameters(each) | set(each.left_out) for each in methods)
        )
        assert (
            set(schemas_of(operation, document)) - {DEADLINE_HEADER, PRIORITY_HEADER} <= offered
        ), route


def test_defaults_are_those_of_the_document(document):
    by_route = operations(document)
    for name, described in DESCRIBED.items():
        for route in described.routes:
            schemas = schemas_of(by_route[route], document)
            for parameter in inspect.signature(described.build).parameters.values():
                wire_name = described.wire_name(parameter.name)
                # The client chooses the form of a response.
                if wire_name in ("format", "output_format") or "default" not in schemas.get(
                    wire_name, {}
                ):
                    continue
                default = parameter.default
                default = list(default) if isinstance(default, tuple) else default
                is_required = default is inspect.Parameter.empty
                assert is_required or default == schemas[wire_name]["default"], (name, wire_name)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_both_clients_have_every_method_with_its_signature(client):
    for name, described in DESCRIBED.items():
        method = inspect.signature(getattr(client, name))
        assert list(method.parameters) == ["self", *inspect.signature(described.build).parameters]
        assert getattr(client, name).__doc__ == described.build.__doc__


def test_both_clients_have_the_same_methods():
    def public(client):
        return {name for name in vars(client) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
    for name in public(Client) - {"url", "image_url", "with_options", "job_events", "stream_text"}:
        assert inspect.iscoroutinefunction(getattr(AsyncClient, name)), name
        assert not inspect.iscoroutinefunction(getattr(Client, name)), name


@pytest.mark.parametrize(("record", "schema"), [(Model, "ModelDetail"), (Job, "JobAnswer")])
def test_records_have_the_fields_of_responses(document, record, schema):
    fields = set(document["components"]["schemas"][schema]["properties"])
    assert set(inspect.signature(record).parameters) == fields
