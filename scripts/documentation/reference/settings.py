"""The reference of the settings of the service."""

from scripts.documentation.reference.markdown import code, table
from service.cli.options import flag_of, shown_default
from service.settings import PREFIX, Settings

_TITLE = """# Settings

Generated from the code. A setting is a flag of `ganymede serve`, an environment variable, or a key
of the TOML file given by `--config` or `GANYMEDE_CONFIG`. Flags take precedence over variables, and
variables over the file.

"""


def settings_page() -> str:
    """Return the page with all settings."""
    rows = [
        (
            code(flag_of(name)),
            code(f"{PREFIX}{name.upper()}"),
            code(name),
            code(shown_default(name, field)),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]
    return _TITLE + table(("flag", "variable", "key", "default", "meaning"), rows)
