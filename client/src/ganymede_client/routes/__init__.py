"""Functions that build the call of each route: one function is one method of the clients."""

from ganymede_client.routes import (
    audio,
    generate,
    image_to_image,
    job_events,
    jobs,
    latent,
    models,
    open_inference,
    operations,
    text,
)

__all__ = [
    "audio",
    "generate",
    "image_to_image",
    "job_events",
    "jobs",
    "latent",
    "models",
    "open_inference",
    "operations",
    "text",
]
