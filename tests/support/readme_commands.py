"""The commands that the README tells people to give, and what a server answers that one of them has started."""

import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request

from checkout import CHECKOUT

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


def answer_of(server: subprocess.Popen, address: str, data: bytes | None = None) -> bytes:
    """What a server that was just started answers, once it is up."""
    for _ in range(1200):
        assert server.poll() is None, server.communicate()[0]
        try:
            with urllib.request.urlopen(urllib.request.Request(address, data), timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at {address}")
