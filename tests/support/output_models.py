"""Small models with other outputs than images, or another input, built from ONNX nodes.

- `beeps` returns audio, with classes and a tone for each seed.
- `babble` returns text, character by character.
- `letters` encodes texts: each token has a row of random numbers.
- `captioned` turns z and the vector of a text into an image.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from service.runtime.models.golden import write_golden
from service.runtime.models.manifest import MANIFEST_FILE, PREVIEW_FILE, Manifest, read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR, STEP, TEXT_ENCODER, Graph
from service.runtime.models.parts.inputs import TextInput
from service.runtime.models.parts.latent import LatentSpace
from service.runtime.models.parts.outputs import (
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    AudioSpec,
    ImageSpec,
    TextEncoder,
    TextSpec,
    TokenizerFile,
    VocabularyFile,
)
from service.runtime.models.parts.provenance import ImportProvenance
from service.runtime.onnx.sessions import Provider, plan_for
from tests.support.drawn_models import (
    CHARACTERS,
    CLASSES,
    SAMPLE_RATE,
    SAMPLES,
    SIZE,
    STATE,
    TEXT,
    VOCABULARY,
    GraphBuilder,
    W,
    Z,
)

AUDIO, TEXT_MODEL, ENCODER, CAPTIONED = "beeps", "babble", "letters", "captioned"
MAX_LENGTH = 20
MAX_TOKENS = 16


def write_output_models(models: Path) -> None:
    """Write the four models into the folder `models`."""
    write_audio(models / AUDIO / "1")
    write_text(models / TEXT_MODEL / "1")
    write_text_encoder(models / ENCODER / "1")
    write_text_to_image(models / CAPTIONED / "1", read_manifest(models / ENCODER / "1").digest)


def write_audio(folder: Path, inputs: tuple[str, ...] = ("z", "class_weights")) -> None:
    """Write a model that returns a tone, whose pitch depends on the latent and the class."""
    folder.mkdir(parents=True)
    graph = GraphBuilder(seed=21)
    features = graph.features(W, list(inputs))
    pitch = graph.node("MatMul", features, graph.weight(W, 1))
    # Radians per sample at 250 Hz to 1 kHz.
    radians = np.float32(2 * np.pi / SAMPLE_RATE)
    hertz = graph.node(
        "Add",
        graph.node("Mul", graph.node("Sigmoid", pitch), graph.constant(np.float32(750))),
        graph.constant(np.float32(250)),
    )
    time = graph.constant((np.arange(SAMPLES, dtype=np.float32) * radians)[None])
    wave = graph.node("Sin", graph.node("Mul", hertz, time))
    levels = graph.node("Round", graph.node("Mul", wave, graph.constant(np.float32(20_000))))
    graph.node("Cast", levels, output="samples", to=TensorProto.INT16)
    graphs = {GENERATOR: graph.save(folder / "generator.onnx", list(inputs), ["samples"])}
    write_manifest(
        folder,
        graphs,
        "audio",
        audio=AudioSpec(sample_rate=SAMPLE_RATE, samples=SAMPLES),
        latent=LatentSpace(dimension=Z),
        classes=CLASSES if "class_weights" in inputs else (),
    )


def write_text(
    folder: Path,
    max_length: int = MAX_LENGTH,
    *,
    ends: bool = True,
    vocabulary: Sequence[str] = VOCABULARY,
) -> None:
    """Write a recurrent network over a vocabulary of as many tokens as `VOCABULARY`.

    Without `ends`, every text has the maximum length.
    """
    folder.mkdir(parents=True)
    graph = GraphBuilder(seed=22)
    size = len(vocabulary)
    embedded = graph.node("Gather", graph.weight(size, STATE), "token")
    carried = graph.node("MatMul", "state", graph.weight(STATE, STATE))
    graph.node("Tanh", graph.node("Add", embedded, carried), output="new_state")
    # The start is never generated.
    bias = np.zeros(size, np.float32)
    bias[0] = -1000
    if not ends:
        bias[1] = -1000
    logits = graph.node("MatMul", "new_state", graph.weight(STATE, size))
    graph.node("Add", logits, graph.constant(bias), output="logits")
    graphs = {STEP: graph.save(folder / "step.onnx", ["token", "state"], ["logits", "new_state"])}
    data = json.dumps(vocabulary).encode()
    (folder / VOCABULARY_FILE).write_bytes(data)
    spec = TextSpec(
        vocabulary=VocabularyFile(sha256=hashlib.sha256(data).hexdigest()),
        unit="character",
        size=size,
        start=0,
        end=1,
        max_length=max_length,
        state=STATE,
    )
    write_manifest(folder, graphs, "text", text=spec)


def write_text_encoder(folder: Path) -> None:
    """Write an encoder whose tokens are single characters: the mean of their rows."""
    folder.mkdir(parents=True)
    graph = GraphBuilder(seed=23)
    rows = graph.node("Gather", graph.weight(len(CHARACTERS), TEXT), "token_ids")
    column = graph.node("Unsqueeze", "token_mask", graph.constant([2]))
    masked = graph.node("Mul", rows, column)
    total = graph.node("ReduceSum", masked, graph.constant([1]), keepdims=0)
    count = graph.node("ReduceSum", "token_mask", graph.constant([1]), keepdims=1)
    least = graph.node("Max", count, graph.constant(np.float32(1)))
    graph.node("Div", total, least, output="text")
    inputs = ["token_ids", "token_mask"]
    graphs = {TEXT_ENCODER: graph.save(folder / "text_encoder.onnx", inputs, ["text"])}
    vocabulary = {character: i for i, character in enumerate(CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    data = tokenizer.to_str().encode()
    (folder / TOKENIZER_FILE).write_bytes(data)
    spec = TextEncoder(
        tokenizer=TokenizerFile(sha256=hashlib.sha256(data).hexdigest()),
        dimension=TEXT,
        max_tokens=MAX_TOKENS,
    )
    write_manifest(folder, graphs, "text-encoder", text_encoder=spec)


def write_text_to_image(folder: Path, encoder_digest: str) -> None:
    """Write a model whose images depend on z and on the vector of a text."""
    folder.mkdir(parents=True)
    graph = GraphBuilder(seed=24)
    features = graph.features(W, ["z"])
    caption = graph.node("MatMul", "text", graph.weight(TEXT, W))
    both = graph.node("Concat", features, caption, axis=1)
    graph.add_pixels(
        graph.node("MatMul", both, graph.weight(2 * W, SIZE * SIZE * 3)), [-1, SIZE, SIZE, 3]
    )
    graphs = {GENERATOR: graph.save(folder / "generator.onnx", ["z", "text"], ["pixels"])}
    write_manifest(
        folder,
        graphs,
        "text-to-image",
        image=ImageSpec(height=SIZE, width=SIZE, channels=3),
        latent=LatentSpace(dimension=Z),
        text_input=TextInput(encoder=ENCODER, encoder_digest=encoder_digest, dimension=TEXT),
    )


def write_manifest(folder: Path, graphs: dict[str, Graph], task: str, **parts: object) -> None:
    """Write the manifest, with the golden outputs, and a preview."""
    write_preview(folder)
    manifest = Manifest(
        name=folder.parent.name,
        version=folder.name,
        task=task,
        summary="A small model",
        graphs=graphs,
        provenance=ImportProvenance(
            format="test",
            source_file="tests/support/output_models.py",
            source_sha256="0" * 64,
            importer_version="1",
        ),
        license="Apache-2.0",
        **parts,
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    model = Model(folder, Provider.CPU, plan_for(Provider.CPU))
    golden = tuple(write_golden(model, folder))
    (folder / MANIFEST_FILE).write_text(manifest.model_copy(update={"golden": golden}).to_json())


def write_preview(folder: Path) -> None:
    """Write a preview without content: a page that shows a model requests it."""
    Image.new("RGB", (2 * SIZE, SIZE), "gray").save(folder / PREVIEW_FILE)
