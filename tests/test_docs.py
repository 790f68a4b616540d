"""The commands and code in the documentation run, and its tables are complete."""

import ast
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from service.cli.options import shown_default
from service.runtime.images.decoding import ImageErrorKind
from service.settings import PREFIX, Settings
from tests.support.servers import ganymede, serving

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    # Other services in these tests may use the default jobs folder.
    jobs = {"GANYMEDE_JOBS": str(tmp_path_factory.mktemp("jobs"))}
    with serving(ROOT / "models", "--insecure-admin", env=jobs) as server:
        yield server


def examples(file: str, language: str, containing: str) -> list[str]:
    """Return the fenced blocks in `language` that contain a text."""
    # Matches whole blocks: a closing fence looks like the opening fence of a plain block.
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    blocks = fence.findall((ROOT / file).read_text())
    return [block for kind, block in blocks if kind == language and containing in block]


def with_server_address(text: str, server) -> str:
    """Replace the documented address with the address of the test server."""
    return text.replace("localhost:3000", server.url.removeprefix("http://"))


def test_readme_curl_returns_an_image(shipped, tmp_path):
    (command,) = examples("README.md", "", "curl")
    subprocess.run(["bash", "-ec", with_server_address(command, shipped)], cwd=tmp_path, check=True)
    image = Image.open(tmp_path / "a.png")
    assert (image.format, image.size) == ("PNG", (28, 28))
    path = re.search(
        r"http://localhost:3000(/v1/models/\S+\.png)", (ROOT / "README.md").read_text()
    )
    with shipped.client() as client:
        response = client.get(path.group(1))
        assert response.content == (tmp_path / "a.png").read_bytes()
        assert Image.open(io.BytesIO(response.content)).text["ganymede"]


@pytest.mark.parametrize(
    "command",
    [
        *examples("docs/http.md", "", "curl"),
        *examples("docs/sampling.md", "sh", "curl"),
        *examples("docs/image-to-image.md", "", "curl"),
    ],
)
def test_curl_examples_run(shipped, tmp_path, command):
    subprocess.run(["bash", "-ec", with_server_address(command, shipped)], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    "code",
    [
        *examples("docs/http.md", "python", "import"),
        *examples("docs/image-to-image.md", "python", "import"),
    ],
)
def test_python_examples_print_the_commented_output(shipped, code):
    process = subprocess.run(
        [sys.executable, "-c", with_server_address(code, shipped)],
        check=True,
        capture_output=True,
        text=True,
    )
    expected = re.findall(r"print\(.*\)  # (.*)", code)
    assert process.stdout.splitlines() == expected


# Client calls that count as examples of a path.
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


def test_every_route_has_a_curl_and_a_python_example(shipped):
    documents = ["docs/http.md", "docs/sampling.md", "docs/image-to-image.md"]
    commands = [text for file in documents for text in examples(file, "", "curl")]
    commands += examples("docs/sampling.md", "sh", "curl")
    commands = [text.replace("/versions/1", "") for text in commands]
    programs = [text for file in documents for text in examples(file, "python", "import")]
    with shipped.client() as client:
        paths = set(client.get("/openapi.json").json()["paths"])
    for path in {path.replace("/versions/{version}", "") for path in paths}:
        parts = re.split(r"\{\w+\}", path)
        pattern = r"[^/\s\"?]+".join(map(re.escape, parts)) + r"(?![\w/.-])"
        assert any(re.search(pattern, text) for text in commands), path
        call = CALLS.get(path)
        matches = [re.search(pattern, text) if call is None else call in text for text in programs]
        assert any(matches), path


def test_relative_links_exist():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_python_job_example_runs(shipped):
    (code,) = examples("docs/sampling.md", "python", "import")
    process = subprocess.run(
        [sys.executable, "-c", with_server_address(code, shipped)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "images-00000.tar" in process.stdout


def test_batch_sampling_commands_run(tmp_path):
    (block,) = examples("docs/sampling.md", "", "--mix coarse")
    for line in block.strip().splitlines():
        # A few images are enough to test the command.
        shortened = re.sub(r"--count \d+", "--count 5", line).replace(
            "--seeds 0-99999", "--seeds 0-4"
        )
        _, *flags = shlex.split(shortened)
        subprocess.run(ganymede(*flags, "--models", ROOT / "models"), cwd=tmp_path, check=True)
    assert len(list((tmp_path / "data").rglob("*.png"))) > 10


def problem_types() -> set[str]:
    """Return the problem types that appear in the code."""
    kinds = {"route-not-found", "method-not-allowed", *ImageErrorKind}
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                kind = node.args[1] if len(node.args) > 1 else None
                if isinstance(kind, ast.Constant):
                    kinds.add(kind.value)
    return kinds


def test_every_problem_type_is_documented():
    table = (ROOT / "docs" / "http.md").read_text().partition("## Errors")[2]
    rows = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    documented = {kind for row in rows for kind in re.findall(r"`([a-z-]+)`", row.split("|")[2])}
    assert documented == problem_types()


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "deploying.md").read_text()
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        default = shown_default(name, field)
        cell = f"`{default}`" if default else ""
        assert f"| `{flag}`, `{PREFIX}{name.upper()}` | {cell} | {field.description} |" in text
