"""Sections of the configuration that say where a run works."""

from typing import Any

from atlas.config.sections import ClusterConfig

JOBS = {"memory": "4GB", "walltime": "08:00:00", "workers": 3}


def section(**keys: Any) -> ClusterConfig:
    return ClusterConfig.model_validate(keys)
