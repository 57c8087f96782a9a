"""``python -m atlas.run CONFIG``: run the stages of an atlas, or go on where they stopped."""

from __future__ import annotations

import argparse
import sys

from atlas.config.reading import load_config
from atlas.errors import AtlasError, ConfigError
from atlas.rundir.stages import STAGES

DONE, CONFIGURATION, RESUMABLE = 0, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when all is done, 2 for a wrong configuration, 3 where the same command goes on later."""
    parser = argparse.ArgumentParser(
        prog="python -m atlas.run",
        description="Make an activation atlas. Giving the same command again goes on where the last run stopped.",
    )
    parser.add_argument("config", help="a YAML file, or the name of a shipped configuration such as demo")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, such as images.limit=100; may be repeated",
    )
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="stop after this stage")
    parser.add_argument("--dry-run", action="store_true", help="stop after the plan")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.overrides)
        from pipelines.pipeline import run  # torch and dask: not before the configuration is right

        run(config, until=options.until, dry_run=options.dry_run)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIGURATION
    except AtlasError as error:
        print(f"{error}\nWhat was finished is kept; the same command goes on from there.", file=sys.stderr)
        return RESUMABLE
    except OSError as error:
        print(f"{error}. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return RESUMABLE
    except KeyboardInterrupt:
        print("\nStopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return RESUMABLE
    return DONE


if __name__ == "__main__":
    sys.exit(main())
