"""`python -m scripts.documentation`: build the site into build/site."""

import argparse
import sys
from pathlib import Path

from scripts.documentation.site import SiteError, build_site


def main() -> int:
    """Build the site; a broken link is an error."""
    parser = argparse.ArgumentParser(prog="python -m scripts.documentation", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/site"), help="default: build/site")
    out = parser.parse_args().out
    try:
        build_site(out)
    except SiteError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {out}; next: python -m http.server --directory {out} 8000")
    return 0


if __name__ == "__main__":
    sys.exit(main())
