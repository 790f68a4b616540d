"""The commands and code in the documentation run, and its tables are complete."""

import ast
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from service.cli.options import flag_of, shown_default
from service.runtime.images.decoding import ImageErrorKind
from service.settings import PREFIX, Settings
from tests.support.documentation import (
    COMMANDS,
    TEXTS,
    Block,
    Session,
    blocks,
    commands,
    documents,
    ganymede_arguments,
    parse_arguments,
)
from tests.support.servers import serving
from training.recipe.loading import load_recipe, shipped_recipes

ROOT = Path(__file__).parents[1]
DOCUMENTS = documents()
# The documents that have an example of every route.
ROUTE_DOCUMENTS = (
    "docs/audio.md",
    "docs/http.md",
    "docs/sampling.md",
    "docs/image-to-image.md",
    "docs/text-to-image.md",
    "docs/text.md",
)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    # Other services in these tests may use the default jobs folder.
    jobs = {"GANYMEDE_JOBS": str(tmp_path_factory.mktemp("jobs"))}
    with serving(ROOT / "models", "--insecure-admin", env=jobs) as server:
        yield server


def documents_to_run():
    """The documents with blocks that are run. A slow block makes the whole document slow."""
    for document in DOCUMENTS:
        found = blocks(document)
        if any(block.is_run for block in found):
            slow = any(block.is_slow for block in found)
            yield pytest.param(document, id=str(document), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("document", list(documents_to_run()))
def test_blocks_run(document, shipped, tmp_path):
    address = shipped.url.removeprefix("http://")
    with Session(tmp_path / "folder", address) as session:
        for block in blocks(document):
            if block.is_run:
                session.run(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_block_is_run_or_says_why_not(document):
    for block in blocks(document):
        assert block.language in (*COMMANDS, *TEXTS), f"{block}: unknown language"
        if block.language in TEXTS:
            assert not block.directives, f"{block} is not run anyway"
        for test in block.tests:
            assert document.name in (ROOT / test).read_text(), f"{test} does not name {document}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_ganymede_commands_parse(document):
    for block in blocks(document):
        for command in commands(block) if block.language in COMMANDS else []:
            arguments = ganymede_arguments(command)
            if arguments is not None:
                assert_parses(str(block), arguments)
    for number, line in enumerate((ROOT / document).read_text().splitlines(), 1):
        for span in re.findall(r"`(ganymede [a-z][^`]*)`", line):
            # A span may leave out arguments, and have placeholders for values.
            if arguments := ganymede_arguments(span):
                assert_parses(f"{document}:{number}", arguments, complete=False)


def assert_parses(place: str, arguments: list[str], *, complete: bool = True) -> None:
    try:
        parse_arguments(arguments, complete=complete)
    except AssertionError as error:
        raise AssertionError(f"{place}: ganymede {' '.join(arguments)}: {error}") from None


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_overrides_of_recipes_are_valid(document):
    text = (ROOT / document).read_text()
    lines = [line for b in blocks(document) if b.language in COMMANDS for line in commands(b)]
    lines += re.findall(r"`(ganymede (?:train|search) [^`]*)`", text)
    for line in lines:
        arguments = ganymede_arguments(line) or [""]
        if arguments[0] in ("train", "search") and set(arguments[1:2]) & set(shipped_recipes()):
            # Options and their values contain no `=`.
            load_recipe(arguments[1], [word for word in arguments[2:] if "=" in word])


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_make_targets_exist(document):
    makefile = (ROOT / "Makefile").read_text()
    text = (ROOT / document).read_text()
    lines = [line for b in blocks(document) if b.language in COMMANDS for line in commands(b)]
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    targets |= set(re.findall(r"`make ([a-z-]+)", text))
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document}: make {target}"


def block(text: str, *comments: str, language: str = "sh") -> Block:
    return Block(Path("docs/example.md"), 1, language, text, comments)


def test_commands_join_continued_lines_and_skip_comments():
    text = "# first\nganymede models \\\n  --json  # all\ncurl -d '{\n}' x | cat\n"
    assert commands(block(text)) == ["ganymede models    --json  # all", "curl -d '{\n}' x | cat"]
    assert commands(block("$ ganymede models\nmodel\n", language="console")) == ["ganymede models"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("A=1 .venv/bin/ganymede models --json > out.json", ["models", "--json"]),
        ("torchrun --no-python ganymede train gan-mnist", ["train", "gan-mnist"]),
        ("docker run ganymede", None),
    ],
)
def test_ganymede_arguments(command, arguments):
    assert ganymede_arguments(command) == arguments


@pytest.mark.parametrize(
    "line",
    [
        "modells",
        "models --jsn",
        "sample dcgan-fashion --count 3",
        "sample dcgan-fashion other --out x",
        "sample dcgan-fashion --out x --format folders",
        "keys ad phone",
    ],
)
def test_wrong_commands_do_not_parse(line):
    parse_arguments(["sample", "dcgan-fashion", "--out", "x", "--format", "folder"])
    with pytest.raises(AssertionError):
        parse_arguments(line.split())


def test_a_misspelled_comment_above_a_block_is_an_error():
    with pytest.raises(AssertionError, match="unknown comment"):
        assert block("curl x", "not ran: needs a GPU").is_run


def test_failing_and_wrongly_commented_blocks_are_errors(tmp_path):
    with Session(tmp_path / "folder") as session:
        session.run(block("print(1 + 1)  # 2", language="python"))
        session.run(block("$ echo one two\none …\n", language="console"))
        session.run(block("test -d models\nfalse", "run with true instead of false"))
        for wrong in (
            block("print(1 + 1)  # 3", language="python"),
            block("$ echo one\ntwo\n", language="console"),
            block("false\ntrue"),
            block("true", "run with true instead of yes"),
            block("curl localhost:3000"),
        ):
            with pytest.raises(AssertionError, match=r"docs/example\.md:1"):
                session.run(wrong)


def test_readme_image_has_the_address_that_is_shown(shipped, tmp_path):
    address = shipped.url.removeprefix("http://")
    document = Path("README.md")
    path = re.search(r"http://localhost:3000(/v1/models/\S+\.png)", (ROOT / document).read_text())
    with Session(tmp_path / "folder", address) as session:
        (curl,) = [b for b in blocks(document) if b.is_run and "curl" in b.text]
        session.run(curl)
        image = Image.open(session.folder / "a.png")
        assert (image.format, image.size) == ("PNG", (28, 28))
        with shipped.client() as client:
            response = client.get(path.group(1))
        assert response.content == (session.folder / "a.png").read_bytes()
        assert Image.open(io.BytesIO(response.content)).text["ganymede"]


# Client calls that count as examples of a path.
CALLS = {
    "/v1/audio": "client.audio(",
    "/v1/images/generations": "client.images.generate(",
    "/v1/images/edits": "client.images.edit(",
    "/v1/images/variations": "client.images.create_variation(",
    "/v1/jobs/{job}/files/{name}": 'client.get(file["url"])',
    "/v2": "client.get_server_metadata(",
    "/v2/health/live": "client.is_server_live(",
    "/v2/health/ready": "client.is_server_ready(",
    "/v2/repository/index": "client.get_model_repository_index(",
    "/v2/models/{name}": "client.get_model_metadata(",
    "/v2/models/{name}/ready": "client.is_model_ready(",
    "/v2/models/{name}/config": "client.get_model_config(",
    "/v2/models/{name}/infer": "client.infer(",
    "/sdapi/v1/upscalers": "api.get_upscalers(",
    "/sdapi/v1/extra-single-image": "api.extra_single_image(",
    "/sdapi/v1/extra-batch-images": "api.extra_batch_images(",
}


def test_every_route_has_a_curl_and_a_python_example(shipped):
    found = [
        block
        for document in ROUTE_DOCUMENTS
        for block in blocks(Path(document))
        if block.is_run or block.tests
    ]
    scripts = [block.text.replace("/versions/1", "") for block in found if block.language == "sh"]
    programs = [block.text for block in found if block.language == "python"]
    with shipped.client() as client:
        paths = set(client.get("/openapi.json").json()["paths"])
    for path in {path.replace("/versions/{version}", "") for path in paths}:
        parts = re.split(r"\{\w+\}", path)
        pattern = r"[^/\s\"?]+".join(map(re.escape, parts)) + r"(?![\w/.-])"
        assert any(re.search(pattern, text) for text in scripts), path
        call = CALLS.get(path)
        matches = [re.search(pattern, text) if call is None else call in text for text in programs]
        assert any(matches), path


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_to_files_and_headings_exist(document):
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?", text)
    links += re.findall(r"(?:src|href)=\"(?!https?:)([^\"#]+)(?:#([^\"]+))?", text)
    for target, anchor in links:
        file = ROOT / document.parent / target if target else ROOT / document
        assert file.exists(), f"{document}: {target}"
        assert not anchor or anchor in anchors(file), f"{document}: {target}#{anchor}"


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
        flag = flag_of(name)
        default = shown_default(name, field)
        cell = f"`{default}`" if default else ""
        assert f"| `{flag}`, `{PREFIX}{name.upper()}` | {cell} | {field.description} |" in text
