"""What the documentation tells to type, typed."""

import ast
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from service.cli.settings_options import shown_default
from service.runtime.images.decoding import ImageErrorKind
from service.settings import PREFIX, Settings
from tests.support.servers import ganymede, serving

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    # Other services of these tests may keep their jobs in the usual folder.
    jobs = {"GANYMEDE_JOBS": str(tmp_path_factory.mktemp("jobs"))}
    with serving(ROOT / "models", env=jobs) as server:
        yield server


def examples(file: str, language: str, containing: str) -> list[str]:
    """The fenced blocks of a language in a file."""
    # Opening and closing fences in turn: a closing one looks like the opening of a plain block.
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    blocks = fence.findall((ROOT / file).read_text())
    return [block for kind, block in blocks if kind == language and containing in block]


def here(text: str, server) -> str:
    return text.replace("localhost:3000", server.url.removeprefix("http://"))


def test_the_readmes_curl_gives_a_picture(shipped, tmp_path):
    (command,) = examples("README.md", "", "curl")
    subprocess.run(["bash", "-ec", here(command, shipped)], cwd=tmp_path, check=True)
    image = Image.open(tmp_path / "a.png")
    assert (image.format, image.size) == ("PNG", (28, 28))
    path = re.search(
        r"http://localhost:3000(/v1/models/\S+\.png)", (ROOT / "README.md").read_text()
    )
    with shipped.client() as client:
        answer = client.get(path.group(1))
        assert answer.content == (tmp_path / "a.png").read_bytes()
        assert Image.open(io.BytesIO(answer.content)).text["ganymede"]


@pytest.mark.parametrize(
    "command",
    [
        *examples("docs/http.md", "", "curl"),
        *examples("docs/sampling.md", "sh", "curl"),
        *examples("docs/image-to-image.md", "", "curl"),
    ],
)
def test_the_curl_examples_run(shipped, tmp_path, command):
    subprocess.run(["bash", "-ec", here(command, shipped)], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    "code",
    [
        *examples("docs/http.md", "python", "import"),
        *examples("docs/image-to-image.md", "python", "import"),
    ],
)
def test_the_python_examples_print_what_their_comments_say(shipped, code):
    done = subprocess.run(
        [sys.executable, "-c", here(code, shipped)], check=True, capture_output=True, text=True
    )
    expected = re.findall(r"print\(.*\)  # (.*)", code)
    assert done.stdout.splitlines() == expected


# What clients that know the protocol call, in place of the path.
CALLS = {
    "/v1/images/generations": "client.images.generate(",
    "/v1/jobs/{job}/files/{name}": 'client.get(file["url"])',
    "/v2": "client.get_server_metadata(",
    "/v2/health/live": "client.is_server_live(",
    "/v2/health/ready": "client.is_server_ready(",
    "/v2/repository/index": "client.get_model_repository_index(",
    "/v2/models/{name}": "client.get_model_metadata(",
    "/v2/models/{name}/ready": "client.is_model_ready(",
    "/v2/models/{name}/config": "client.get_model_config(",
    "/v2/models/{name}/infer": "client.infer(",
}


def test_every_route_has_an_example_for_curl_and_one_for_python(shipped):
    documents = ["docs/http.md", "docs/sampling.md", "docs/image-to-image.md"]
    commands = [text for file in documents for text in examples(file, "", "curl")]
    commands += examples("docs/sampling.md", "sh", "curl")
    commands = [text.replace("/versions/1", "") for text in commands]
    programs = [text for file in documents for text in examples(file, "python", "import")]
    with shipped.client() as client:
        paths = set(client.get("/openapi.json").json()["paths"])
    for path in {path.replace("/versions/{version}", "") for path in paths}:
        parts = re.split(r"\{\w+\}", path)
        here = r"[^/\s\"?]+".join(map(re.escape, parts)) + r"(?![\w/.-])"
        assert any(re.search(here, text) for text in commands), path
        call = CALLS.get(path)
        said = [re.search(here, text) if call is None else call in text for text in programs]
        assert any(said), path


def test_links_between_the_documents_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_python_examples_of_jobs_run(shipped):
    (code,) = examples("docs/sampling.md", "python", "import")
    done = subprocess.run(
        [sys.executable, "-c", here(code, shipped)], check=True, capture_output=True, text=True
    )
    assert "images-00000.tar" in done.stdout


def test_the_commands_of_batch_sampling_run(tmp_path):
    (block,) = examples("docs/sampling.md", "", "--mix coarse")
    for line in block.strip().splitlines():
        # As many pictures as it takes to see that they come.
        few = re.sub(r"--count \d+", "--count 5", line).replace("--seeds 0-99999", "--seeds 0-4")
        _, *flags = shlex.split(few)
        subprocess.run(ganymede(*flags, "--models", ROOT / "models"), cwd=tmp_path, check=True)
    assert len(list((tmp_path / "data").rglob("*.png"))) > 10


def kinds_of_problems() -> set[str]:
    """What `type` may end in, as the code has it."""
    kinds = {"route-not-found", "method-not-allowed", *ImageErrorKind}
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                kind = node.args[1] if len(node.args) > 1 else None
                if isinstance(kind, ast.Constant):
                    kinds.add(kind.value)
    return kinds


def test_every_kind_of_problem_is_in_the_table():
    table = (ROOT / "docs" / "http.md").read_text().partition("## Errors")[2]
    rows = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    said = {kind for row in rows for kind in re.findall(r"`([a-z-]+)`", row.split("|")[2])}
    assert said == kinds_of_problems()


def test_every_setting_is_in_the_table_as_it_is():
    text = (ROOT / "docs" / "deploying.md").read_text()
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        default = shown_default(name, field)
        shown = f"`{default}`" if default else ""
        assert f"| `{flag}`, `{PREFIX}{name.upper()}` | {shown} | {field.description} |" in text
