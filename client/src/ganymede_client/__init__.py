"""Client of Ganymede, a server for GAN generators.

from ganymede_client import Client

with Client("http://localhost:3000") as client:
    images = client.generate("dcgan-fashion", seeds=[1, 2])
    images.save("images")
"""

from ganymede_client.async_client import AsyncClient
from ganymede_client.client import Client
from ganymede_client.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    DeadlineExceeded,
    GanymedeError,
    InvalidImage,
    InvalidRequest,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobNotFound,
    ModelFailed,
    ModelNotFound,
    NotAllowed,
    NotFound,
    NotReady,
    ProblemError,
    ProxyFailed,
    QueueFull,
    RateLimited,
    RequestTimedOut,
    RequestTooLarge,
    ServerError,
    TooManyJobs,
    TooManyRequests,
    Unavailable,
    UnexpectedResponse,
    WaitTimedOut,
)
from ganymede_client.flows import Download
from ganymede_client.images import Animation, Image, Images
from ganymede_client.outputs.audio import Audio
from ganymede_client.provenance import Provenance
from ganymede_client.records import (
    Job,
    JobEvent,
    JobFile,
    JobPage,
    JobWebhook,
    Model,
    Readiness,
    Reloaded,
    ReloadedModel,
    Text,
    TextEvent,
)
from ganymede_client.version import __version__
from ganymede_client.wire.values import Source

__all__ = [
    "Animation",
    "AsyncClient",
    "Audio",
    "AuthenticationFailed",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Download",
    "GanymedeError",
    "Image",
    "Images",
    "InvalidImage",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobEnded",
    "JobEvent",
    "JobFailed",
    "JobFile",
    "JobNotFound",
    "JobPage",
    "JobWebhook",
    "Model",
    "ModelFailed",
    "ModelNotFound",
    "NotAllowed",
    "NotFound",
    "NotReady",
    "ProblemError",
    "Provenance",
    "ProxyFailed",
    "QueueFull",
    "RateLimited",
    "Readiness",
    "Reloaded",
    "ReloadedModel",
    "RequestTimedOut",
    "RequestTooLarge",
    "ServerError",
    "Source",
    "Text",
    "TextEvent",
    "TooManyJobs",
    "TooManyRequests",
    "Unavailable",
    "UnexpectedResponse",
    "WaitTimedOut",
    "__version__",
]
