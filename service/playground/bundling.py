"""Combines the modules and style sheets of the playground into one script and one style sheet.

A browser that requests many small files waits for them, a few at a time. The modules stay plain ES
modules, and there is no build step: the service combines them when they are requested.

    import { h } from "./core/dom.js";      const { h } = $core_dom;
    export const panel = …;                 const $panels_wall = (() => { const panel = …;
                                            return { panel }; })();

Each module becomes a function that runs once, after the modules that it imports. Comments on lines
of their own and indentation are removed; a statement keeps its lines. Only the forms of `import`
and `export` above are supported, and a template literal must not contain a line break; anything
else raises BundleError, so that a module is never served changed in another way.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.[^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|class|function|async function) (\w+))", re.MULTILINE)
_OTHER_FORMS = re.compile(r"^(?:import|export)\b.*|\bimport\s*\(|\bimport\.meta\b", re.MULTILINE)
_BLOCK_COMMENTS = re.compile(r"^[ \t]*/\*.*?\*/[ \t]*\n", re.MULTILINE | re.DOTALL)
_LINE_COMMENTS = re.compile(r"^[ \t]*//.*\n", re.MULTILINE)
_INDENTATION = re.compile(r"^[ \t\n]+", re.MULTILINE)


class BundleError(ValueError):
    """A module cannot be combined with others."""


def bundle_modules(sources: Mapping[str, str], entry: str) -> str:
    """Return one ES module that does what `entry` does, with all modules that it imports.

    `sources` are the texts of the modules by path, such as ``core/dom.js``. Raises BundleError.
    """
    return "".join(_module(name, sources) for name in _in_order(sources, entry))


def bundle_styles(sources: Iterable[str]) -> str:
    """Return one style sheet: `sources` in their order, without comments on lines of their own."""
    return "".join(_without_comments(source) for source in sources)


def _in_order(sources: Mapping[str, str], entry: str) -> list[str]:
    """Return `entry` and the modules that it needs, each after those that it imports."""
    order: list[str] = []
    importing: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in importing:
            raise BundleError(f"{' imports '.join([*importing, name])}: modules form a cycle")
        if name not in sources:
            raise BundleError(f"{importing[-1] if importing else 'the page'}: no module {name}")
        importing.append(name)
        for _, path in _IMPORT.findall(sources[name]):
            visit(_resolve(name, path))
        importing.pop()
        order.append(name)

    visit(entry)
    return order


def _module(name: str, sources: Mapping[str, str]) -> str:
    """Return a module as a statement that runs it and defines its exports."""

    def to_constant(match: re.Match[str]) -> str:
        names = match[1].replace(" as ", ": ")
        return f"const {{{names}}} = {_variable(_resolve(name, match[2]))};\n"

    text = _without_comments(sources[name])
    exports = _EXPORT.findall(text)
    text = _EXPORT.sub("", _IMPORT.sub(to_constant, text))
    if other := _OTHER_FORMS.search(text):
        raise BundleError(f"{name}: this form of import or export is not supported: {other[0]}")
    for line in text.splitlines():
        if line.count("`") % 2:
            raise BundleError(f"{name}: a template literal contains a line break: {line}")
    return (
        f"const {_variable(name)} = (() => {{\n{text}return {{ {', '.join(exports)} }};\n}})();\n"
    )


def _without_comments(text: str) -> str:
    for pattern in (_BLOCK_COMMENTS, _LINE_COMMENTS, _INDENTATION):
        text = pattern.sub("", text)
    return text


def _resolve(importer: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(importer), path))


def _variable(name: str) -> str:
    """Return the variable with the exports of a module; `$` occurs in no other name."""
    return "$" + re.sub(r"\W", "_", name.removesuffix(".js"))
