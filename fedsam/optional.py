"""Packages that only some commands need, and that an installation may lack."""

from __future__ import annotations

from importlib.util import find_spec

from fedsam.config import ConfigError


def require(package: str, wanted_by: str) -> None:
    """Nothing, where the package is installed; its module must have its name.

    Raises:
        ConfigError: It is not installed; the message says how to install it.
    """
    if find_spec(package) is None:
        raise ConfigError(f"{wanted_by}: needs the package {package}, which is not installed; install it with: pip install {package}")
