"""The folder of what commands keep for each other: files of datasets, and the token of private Rays."""

from __future__ import annotations

import os
from pathlib import Path

from fedsam.wording import ConfigError


def cache_folder() -> Path:
    """`$FEDSAM_HOME`, else `fedsam` in `$XDG_CACHE_HOME`, else `~/.cache/fedsam`; it may be missing.

    Raises:
        ConfigError: This user has no home directory; the message names the variable to set.
    """
    if own := os.environ.get("FEDSAM_HOME"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "fedsam"
    try:
        return Path.home() / ".cache" / "fedsam"
    except RuntimeError:
        raise ConfigError("FEDSAM_HOME: must be set to a folder for what fedsam keeps: this user has no home directory") from None
