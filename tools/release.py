"""Build the release and try it as a user gets it: the wheel in a new environment, away from the repository.

    make release

Needs a network connection to a package index. Builds dist/*.tar.gz, and dist/*.whl from it; checks both with twine;
installs the wheel alone in a new environment, runs the first Python of README.md in an empty folder and compares its
output with the page; then copies recipes there and runs them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Those that run within a minute with the embedded sample; the second needs the extra `offline`.
RECIPES = ("bm25.py", "dense.py")


def main(torch: str) -> None:
    """Build, check and try the release."""
    dist, tried = ROOT / "dist", ROOT / "build" / "release"
    for folder in (dist, tried):
        shutil.rmtree(folder, ignore_errors=True)
    tried.mkdir(parents=True)

    python = new_environment(tried / "tools", "build", "twine")
    run(python, "-m", "build", "--outdir", dist, ROOT)
    archives = sorted(dist.iterdir())
    run(python, "-m", "twine", "check", "--strict", *archives)

    (wheel,) = dist.glob("*.whl")
    constraints = ("-c", ROOT / "constraints.txt")
    python = new_environment(tried / "user", torch)
    install(python, *constraints, wheel)
    folder = tried / "folder"
    folder.mkdir()
    try_readme(python, folder)
    install(python, *constraints, f"{wheel}[offline]")
    for recipe in RECIPES:
        shutil.copy(ROOT / "recipes" / recipe, folder)
        print(f"recipes/{recipe}")
        run(python, recipe, cwd=folder)
    print("The release is ready:", *(archive.relative_to(ROOT) for archive in archives), sep="\n  ")


def new_environment(folder: Path, *packages: str) -> Path:
    """Create a virtual environment with some packages and return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install(python, *packages)
    return python


def install(python: Path, *arguments: str | Path) -> None:
    """Install packages with pip."""
    run(python, "-m", "pip", "install", "--quiet", *arguments)


def try_readme(python: Path, folder: Path) -> None:
    """Run the first Python of README.md, and compare its output with the output that the page shows below it."""
    sys.path.insert(0, str(ROOT / "tests"))
    from documents import blocks_of

    blocks = blocks_of((ROOT / "README.md").read_text())
    number = next(i for i, block in enumerate(blocks) if block.language == "python")
    (folder / "readme.py").write_text(blocks[number].body)
    printed = run(python, "readme.py", cwd=folder, stdout=subprocess.PIPE)
    print(printed)
    if printed != blocks[number + 1].body:
        raise SystemExit("The first Python of README.md prints something else than README.md shows.")


def run(python: Path, *arguments: str | Path, cwd: Path | None = None, stdout: int | None = None) -> str:
    """Run Python without any path or setting of this environment."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([python, *arguments], cwd=cwd, env=outside, stdout=stdout, text=True, check=True)
    return done.stdout or ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="torch", help="the build of torch to install first (default: %(default)s)")
    main(parser.parse_args().torch)
