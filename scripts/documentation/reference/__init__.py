"""The reference, generated from the code: commands, HTTP, settings, recipes, manifest."""

from scripts.documentation.reference.command import command_page
from scripts.documentation.reference.http import http_page
from scripts.documentation.reference.manifest import manifest_page
from scripts.documentation.reference.recipes import recipe_page
from scripts.documentation.reference.settings import settings_page


def pages() -> dict[str, str]:
    """Return all pages as Markdown, by file name."""
    return {
        "command.md": command_page(),
        "http.md": http_page(),
        "settings.md": settings_page(),
        "recipes.md": recipe_page(),
        "manifest.md": manifest_page(),
    }
