"""The commands and code in the documentation: finds, parses and runs the fenced blocks.

Blocks in `sh`, `console`, `python` and `js` are run, in the order of the document and in one
folder, as a reader would run them. Comments above a block change that:

    <!-- not run: REASON -->               the `ganymede` commands are parsed, and nothing is run
    <!-- run by tests/PATH -->             another test module runs the commands
    <!-- run with NEW instead of OLD -->   run with a replacement, for example a smaller size
    <!-- slow -->                          the document is run by the slow tests
    <!-- all LANGUAGE blocks: … -->        anywhere in a document: one of these, for all its blocks

Blank lines may separate a comment from its block. `make TARGET` is not run in a block: the test
environment is installed already. A line that starts with `ganymede serve` starts a server for the
blocks that follow; before that, ``localhost:3000`` is the server that the test gives.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from typer.main import get_command

from service.cli.main import app
from tests.support.servers import ganymede, serving

ROOT = Path(__file__).parents[2]
# Languages of blocks that are run, and of other blocks.
COMMANDS = ("sh", "console", "python", "js")
TEXTS = ("text", "json", "yaml", "toml", "jsonl", "html")
ADDRESS = "localhost:3000"

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- (?P<text>.*) -->")
_FOR_ALL = re.compile(r"^<!-- all (\w+) blocks: (.*) -->$", re.MULTILINE)
_DIRECTIVE = re.compile(
    r"not run: (?P<reason>.{10,})|run by (?P<test>tests/\S+\.py)"
    r"|run with (?P<new>.+) instead of (?P<old>.+)|(?P<slow>slow)"
)
_OPERATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>"}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def documents() -> list[Path]:
    """The documents whose blocks are checked, relative to the repository."""
    files = [ROOT / "README.md"]
    for folder in ("docs", "examples", "client"):
        files += sorted((ROOT / folder).rglob("*.md"))
    return [file.relative_to(ROOT) for file in files]


@dataclass(frozen=True)
class Block:
    """A fenced block, with the line of its opening fence and the comments above it."""

    document: Path
    line: int
    language: str
    text: str
    comments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def directives(self) -> list[re.Match]:
        """The parsed comments. Raises AssertionError for an unknown one."""
        matches = [(_DIRECTIVE.fullmatch(comment), comment) for comment in self.comments]
        for match, comment in matches:
            assert match, f"{self}: unknown comment above a block: {comment}"
        return [match for match, _ in matches]

    def _named(self, group: str) -> list[str]:
        return [match[group] for match in self.directives if match[group]]

    @property
    def is_run(self) -> bool:
        """True if `Session` runs the block."""
        skipped = self._named("reason") or self._named("test")
        return self.language in COMMANDS and not skipped

    @property
    def tests(self) -> list[str]:
        """The test modules that run the block."""
        return self._named("test")

    @property
    def is_slow(self) -> bool:
        return bool(self._named("slow"))

    @property
    def text_to_run(self) -> str:
        """The text with the replacements of its directives."""
        text = self.text
        for match in self.directives:
            if match["old"]:
                assert match["old"] in text, f"{self}: nothing to replace: {match['old']}"
                text = text.replace(match["old"], match["new"])
        return text


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a document, given relative to the repository."""
    text = (ROOT / document).read_text()
    for_all = _FOR_ALL.findall(text)
    found = []
    for match in _FENCE.finditer(text):
        lines = text[: match.start()].splitlines()
        comments: list[str] = []
        while lines and (not lines[-1] or (comment := _COMMENT.fullmatch(lines[-1]))):
            if lines.pop():
                comments.insert(0, comment["text"])
        comments += [comment for language, comment in for_all if language == match["language"]]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(document, line, match["language"], match["text"], tuple(comments)))
    return found


def commands(block: Block) -> list[str]:
    """Return the command lines of a `sh` or `console` block, with continued lines joined."""
    if block.language in ("python", "js"):
        return []
    lines: list[str] = []
    pending = ""
    prompt = "$ " if block.language == "console" else ""
    for line in block.text.splitlines():
        if not pending and not line.startswith(prompt):
            continue
        pending = f"{pending}\n{line}" if pending else line.removeprefix(prompt)
        if not _is_complete(pending):
            continue
        if (command := pending.replace("\\\n", " ").strip()) and not command.startswith("#"):
            lines.append(command)
        pending = ""
    assert not pending, f"{block}: a command is not complete: {pending}"
    return lines


def _is_complete(text: str) -> bool:
    """True if no quote is open and the last line is not continued."""
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return not text.endswith("\\")


def ganymede_arguments(command: str) -> list[str] | None:
    """Return the arguments if a command line runs `ganymede`, else None."""
    words = shlex.split(command, comments=True)
    for i, word in enumerate(words):
        if word in _OPERATORS:
            words = words[:i]
            break
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    if words and words[0] == "torchrun":
        words = words[words.index("ganymede") :]
    if words and Path(words[0]).name == "ganymede":
        return words[1:]
    return None


def parse_arguments(arguments: list[str], *, complete: bool = True) -> None:
    """Parse the arguments of `ganymede` without running anything.

    Raises AssertionError for an unknown subcommand, option, or value of a choice. If `complete`,
    also for missing and for superfluous arguments.
    """
    command, context = get_command(app), None
    while hasattr(command, "list_commands") and arguments and not arguments[0].startswith("-"):
        context = command.context_class(command, parent=context, info_name=command.name)
        name, *arguments = arguments
        subcommand = command.get_command(context, name)
        assert subcommand is not None, f"there is no subcommand {name!r}"
        command = subcommand
    try:
        # Parses and validates the arguments, but does not run the command.
        command.make_context(command.name, list(arguments), parent=context)
    except Exception as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        incomplete = "requires an argument" in message or message.startswith("Missing")
        if complete or not (incomplete or "Invalid value" in message):
            raise AssertionError(message) from error


@dataclass
class Session:
    """Runs the blocks of documents in a folder. `address` is the server of ``localhost:3000``.

    The folder has a copy of the included models, and the examples and scripts of the repository.
    """

    folder: Path
    address: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    _servers: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> "Session":
        self.folder.mkdir(parents=True, exist_ok=True)
        # A command may add models to the folder, and replaces files instead of writing into them.
        shutil.copytree(ROOT / "models", self.folder / "models", copy_function=_link)
        for name in ("examples", "scripts", "deploy"):
            if (ROOT / name).exists():
                (self.folder / name).symlink_to(ROOT / name)
        return self

    def __exit__(self, *exception: object) -> None:
        self._servers.close()

    @property
    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, **self.environment}

    def run(self, block: Block) -> None:
        """Run a block. Raises AssertionError with its place and output if it fails."""
        if block.language == "python":
            self._run_python(block)
        elif block.language == "console":
            self._run_console(block)
        elif block.language == "js":
            raise AssertionError(f"{block}: a test module with the packages has to run JavaScript")
        else:
            self._run_shell(block, block.text_to_run)

    def _run_shell(self, block: Block, text: str) -> str:
        lines = text.replace(".venv/bin/", "").splitlines(keepends=True)
        serve = next((n for n, line in enumerate(lines) if line.startswith("ganymede serve")), None)
        script = "".join(lines[:serve])
        output = ""
        if script.strip():
            # The environment of the tests is installed, so `make` has nothing to do.
            output = self._execute(block, ["bash", "-euc", f"make() {{ :; }}\n{script}"])
        if serve is not None:
            arguments = shlex.split("".join(lines[serve:]), comments=True)[2:]
            self._serve(*arguments)
        return output

    def _serve(self, *arguments: str) -> None:
        command = ["env", "-C", self.folder, *ganymede("serve", *arguments)]
        environment = {**self.environment, "GANYMEDE_JOBS": str(self.folder / "jobs")}
        server = serving(self.folder, command=[str(word) for word in command], env=environment)
        self.address = self._servers.enter_context(server).url.removeprefix("http://")

    def _run_console(self, block: Block) -> None:
        steps = re.split(r"^\$ ", block.text_to_run, flags=re.MULTILINE)[1:]
        for step in steps:
            command, _, expected = step.partition("\n")
            while command.endswith("\\"):
                line, _, expected = expected.partition("\n")
                command = f"{command}\n{line}"
            output = self._run_shell(block, command)
            for line in filter(None, expected.splitlines()):
                pattern = ".*".join(map(re.escape, line.strip().split("…")))
                assert re.search(pattern, output), f"{block}: no line {line!r} in:\n{output}"

    def _run_python(self, block: Block) -> None:
        output = self._execute(block, [sys.executable, "-c", block.text_to_run])
        expected = re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE)
        if expected:
            assert output.splitlines() == expected, f"{block}: printed:\n{output}"

    def _execute(self, block: Block, command: list[str]) -> str:
        *words, script = command
        if ADDRESS in script:
            assert self.address, f"{block}: no server runs at {ADDRESS}"
            script = script.replace(ADDRESS, self.address)
        process = subprocess.run(
            [*words, script],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, f"{block} failed:\n{process.stdout}\n{process.stderr}"
        return process.stdout


def _link(source: str, target: str) -> None:
    """Hard-link a file, or copy it if the target is on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
