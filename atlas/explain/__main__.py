"""``python -m atlas.explain RUN IMAGE --out DIR``: what the networks of a run see in one picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from atlas.command import SUCCESS, add_version, carry_out


def main(arguments: Sequence[str] | None = None, prog: str = "python -m atlas.explain") -> int:
    """Exit code 0 when all is written, 2 for wrong arguments, 3 for what failed or was stopped."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Explain one picture by a finished run: what each layer sees at each position, where that lies on "
        "the atlas, and what it adds to the classes. Writes pictures, explain.json and index.html.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/demo")
    parser.add_argument("image", metavar="IMAGE", help="a picture: JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write into; it is made")
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="LAYER",
        help="one of the run's layers; may be repeated (default: all)",
    )
    parser.add_argument(
        "--class",
        action="append",
        default=[],
        dest="classes",
        metavar="CLASS",
        help="by name or number; may be repeated (default: the three best)",
    )
    parser.add_argument(
        "--groups", type=int, default=6, metavar="N", help="groups of positions: 2 to 10, or 0 for none (default: 6)"
    )
    parser.add_argument(
        "--steps", type=int, default=64, metavar="N", help="optimisation steps of an icon; 32 are quick (default: 64)"
    )
    parser.add_argument(
        "--without-each", action="store_true", help="also take each position out, and see what the classes really lose"
    )
    add_version(parser)
    options = parser.parse_args(arguments)

    def work() -> int:
        from atlas.explain.command import explain  # torch: not before the arguments are right

        explain(
            options.run,
            Path(options.image),
            Path(options.out),
            layers=options.layer,
            classes=options.classes,
            groups=options.groups,
            steps=options.steps,
            without_each=options.without_each,
        )
        return SUCCESS

    return carry_out(work, stopped="What was written so far is in the folder; the same command starts anew.")


if __name__ == "__main__":
    sys.exit(main())
