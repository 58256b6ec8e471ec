"""The hash by which runs of one experiment are found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fedsam.renamed import with_former_names, without_added


def config_hash(config: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> str:
    """Twelve hexadecimal digits, equal for settings that differ only in the seed, in where files lie, and in what changes no number.

    Args:
        sources: Hashes of the modules that components come from: changed code is another experiment.
    """
    kept = {key: value for key, value in config.items() if key not in ("seed", "runs_dir", "checkpoint", "published", "callbacks")}
    compute = config["compute"]
    kept["compute"] = [compute["precision"], compute["shard_size"]] if "shard_size" in compute else compute["precision"]
    kept["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    if sources:
        kept["sources"] = dict(sources)
    return digest(json.dumps(with_former_names(without_added(kept)), default=str, sort_keys=True))[:12]


def digest(text: str) -> str:
    """SHA-256 of a text in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
