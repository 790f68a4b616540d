from service.api.middleware.request_headers import request_headers


def test_first_value_of_a_repeated_header_counts():
    scope = {"headers": [(b"accept", b"image/png"), (b"x-a", b"caf\xe9"), (b"accept", b"*/*")]}
    assert request_headers(scope) == {"accept": "image/png", "x-a": "café"}
    assert request_headers(scope) is request_headers(scope)
