"""Configurations that tests write, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas.config.reading import load_config
from atlas.errors import ConfigError

MINIMAL = {"network": {"name": "efficientnet_lite0"}, "layers": ["_blocks.4"], "images": {"source": "pictures/"}}


def write(folder: Path, name: str = "mine.yaml", **changes: Any) -> str:
    """Write the least configuration with other keys; its path."""
    path = folder / name
    path.write_text(yaml.safe_dump(MINIMAL | changes))
    return str(path)


def mistakes(folder: Path, overrides: list[str] | None = None, **changes: Any) -> list[str]:
    """The lines of what is wrong with such a configuration."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, **changes), overrides)
    return str(caught.value).splitlines()
