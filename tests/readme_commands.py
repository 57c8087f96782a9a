"""The commands that the README tells people to give, and where each of them is run."""

import re
import shlex
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
_PROGRAMS = (
    r"(python )?scripts/\w+|python -m atlas|pip install|"
    r"export DASK|dask |OMP_NUM_THREADS=1|wandb |mlflow |tensorboard |embedding-atlas "
)


def commands() -> list[str]:
    """Every command of the README, as it stands there: lines of code, and code inside of sentences."""
    found: list[str] = []
    fence = None
    for line in (CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line[3:]
        elif fence == "sh":
            found.append(line)
        elif fence is None and line.startswith("    "):
            found.append(line.strip())
        elif fence is None:
            found += [code for code in re.findall(r"`([^`]+)`", line) if re.match(_PROGRAMS, code)]
    return list(dict.fromkeys(re.sub(r"\s+# .*", "", each) for each in found))


def the_command(start: str) -> list[str]:
    """The words of the README's one command that begins like this."""
    (command,) = (each for each in commands() if each.startswith(start))
    return shlex.split(command)
