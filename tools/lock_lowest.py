"""Write constraints-lowest.txt: the lowest versions that pyproject.toml allows, and what they need.

    make lock-lowest

Needs a network connection to a package index. Resolves the dependencies and all extras with uv: each at its lower
bound, and the packages that they need in turn at their newest versions. torch is left out: its builds for CPUs and for
GPUs need different packages, so the Makefile installs one build first.
"""

import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "constraints-lowest.txt"
#: The lowest Python for which the lowest versions are resolved.
PYTHON = "3.11"
HEADER = """\
# The lowest versions that pyproject.toml allows, and the versions of what they need, for Python 3.11.
# `make test-lowest` runs the tests with them, and `make lock-lowest` writes this file. torch is installed first, see
# the Makefile.
"""


def main() -> None:
    """Resolve the lowest versions and write the file."""
    folder = ROOT / "build" / "lowest"
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
    # A requirement that no Python meets takes torch out of the resolution.
    without_torch = folder / "overrides.txt"
    without_torch.write_text("torch; python_version < '3'\n")
    command = [python, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--all-extras"]
    command += ["--resolution", "lowest-direct", "--python-version", PYTHON, "--override", without_torch]
    found = subprocess.run([*command, "pyproject.toml"], cwd=ROOT, check=True, capture_output=True, text=True)
    PINS.write_text(HEADER + found.stdout)


if __name__ == "__main__":
    main()
