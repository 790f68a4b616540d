"""The reference of the `ganymede` command: every subcommand with its arguments and options."""

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from scripts.documentation.reference.markdown import code, table
from service.cli.main import app

_TITLE = """# The command

Generated from the code. `ganymede COMMAND --help` prints the same.

"""


def command_page() -> str:
    """Return the page with all subcommands."""
    command = get_command(app)
    context = command.context_class(command, info_name="ganymede")
    return _TITLE + "".join(_sections(command, context))


def _sections(group: Any, context: Any) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        inner = command.context_class(command, parent=context, info_name=name)
        yield _section(command, inner)
        if hasattr(command, "list_commands"):
            yield from _sections(command, inner)


def _section(command: Any, context: Any) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = f"## {context.command_path}\n\n```text\n{usage}\n```\n\n{_help(command.help or '')}"
    arguments = []
    options = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        rows = arguments if parameter.param_type_name == "argument" else options
        name, help_text = record
        rows.append((code(name), _escape(help_text)))
    if arguments:
        text += table(("argument", "meaning"), arguments)
    if options:
        text += table(("option", "meaning"), options)
    return text


def _help(text: str) -> str:
    """Return the paragraphs of a help text; examples become blocks of commands."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        line = " ".join(paragraph.split())
        label, colon, command = line.partition(": ")
        is_example = colon and re.match(r"(ganymede|torchrun|[A-Z_]+=\S+ ganymede)\b", command)
        if is_example:
            title = "" if label == "Example" else f"{label}:\n\n"
            parts.append(f"{title}```sh\n{command}\n```\n\n")
        else:
            parts.append(f"{_escape(line)}\n\n")
    return "".join(parts)


def _escape(text: str) -> str:
    """Escape what Markdown would read as a link or as HTML."""
    return text.replace("[", "\\[").replace("<", "&lt;").replace("*", "\\*")
