"""The modules of the playground as one script, and the style sheets as one."""

import pytest

from service.playground.bundling import BundleError, bundle_modules, bundle_styles

ENTRY = "main.js"


def test_module_follows_those_that_it_imports_and_appears_once():
    sources = {
        "main.js": (
            'import { b } from "./parts/b.js";\nimport { a as first } from "./a.js";\nb(first);\n'
        ),
        "parts/b.js": 'import { a } from "../a.js";\nexport function b() {\n  return a;\n}\n',
        "a.js": "export const a = 1;\n",
        "unused.js": "export const unused = 2;\n",
    }
    assert bundle_modules(sources, ENTRY).splitlines() == [
        "const $a = (() => {",
        "const a = 1;",
        "return { a };",
        "})();",
        "const $parts_b = (() => {",
        "const { a } = $a;",
        "function b() {",
        "return a;",
        "}",
        "return { b };",
        "})();",
        "const $main = (() => {",
        "const { b } = $parts_b;",
        "const { a: first } = $a;",
        "b(first);",
        "return {  };",
        "})();",
    ]


def test_comments_on_lines_of_their_own_are_removed():
    source = '/**\n * A module.\n */\n\n  // A note.\nf("// text", "/* text */"); // why\n'
    lines = bundle_modules({ENTRY: source}, ENTRY).splitlines()
    assert lines[1] == 'f("// text", "/* text */"); // why'
    assert bundle_styles(["/* Colors. */\na { b: c; }\n", "\n  d { e: f; }\n"]) == (
        "a { b: c; }\nd { e: f; }\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "export default 1;\n",
        "export { a };\n",
        'export * from "./a.js";\n',
        "export let a = 1;\n",
        'import a from "./a.js";\n',
        'import * as a from "./a.js";\n',
        'import "./a.js";\n',
        'import { a } from "library";\n',
        'const a = await import("./a.js");\n',
        "f(import.meta.url);\n",
    ],
)
def test_other_forms_of_import_and_export_are_rejected(text):
    sources = {ENTRY: text, "a.js": "export const a = 1;\n"}
    with pytest.raises(BundleError, match=r"^main\.js: this form of import or export"):
        bundle_modules(sources, ENTRY)


def test_line_breaks_in_template_literals_are_rejected():
    with pytest.raises(BundleError, match=r"main\.js: a template literal contains a line break"):
        bundle_modules({ENTRY: "f(`a\n  b`);\n"}, ENTRY)


def test_missing_modules_and_cycles_are_named():
    importing = 'import { a } from "./a.js";\n'
    with pytest.raises(BundleError, match=r"^main\.js: no module a\.js$"):
        bundle_modules({ENTRY: importing}, ENTRY)
    sources = {ENTRY: importing, "a.js": 'import { b } from "./main.js";\n'}
    with pytest.raises(BundleError, match=r"^main\.js imports a\.js imports main\.js"):
        bundle_modules(sources, ENTRY)
