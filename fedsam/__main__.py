"""The command `fedsam`, also as `python -m fedsam`."""

from __future__ import annotations

import sys
from typing import NoReturn

from fedsam.imports import prefer_own
from fedsam.wording import ConfigError


def main() -> NoReturn:
    """Run this process's command line, and exit."""
    try:
        prefer_own()  # before `experiments` is looked for: the working directory may have one, too
        from experiments.cli.main import program
    except ConfigError as error:
        print(f"fedsam: {error}", file=sys.stderr)
        sys.exit(2)
    program()


if __name__ == "__main__":
    main()
