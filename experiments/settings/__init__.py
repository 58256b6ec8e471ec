"""Experiments from TOML files, presets and sweeps."""
