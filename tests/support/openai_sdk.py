"""OpenAI's unmodified SDK, connected to a server of the tests."""

import base64

import numpy as np
import openai

from tests.support.responses import decode_image


def sdk(server, **options) -> openai.OpenAI:
    return openai.OpenAI(
        **{"base_url": f"{server.url}/v1", "api_key": "any", "max_retries": 0} | options
    )


def content(image) -> bytes:
    """The file of an image or an event."""
    return base64.b64decode(image.b64_json)


def pixels(response) -> list[np.ndarray]:
    return [decode_image(content(image)) for image in response.data]
