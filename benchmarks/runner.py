"""Runs the benchmarks: options, records of machine and versions, JSON and Markdown.

A script defines its measurements in a `Benchmark`:

    python benchmarks/SCRIPT.py [SET...] [options]           # measure, write JSON and Markdown to --out
    python benchmarks/SCRIPT.py [SET...] --render            # write the Markdown again from the JSON

A SET is a BEIR folder or a Hub id. Each part of a script is a section of its results. A run replaces only the sections
of the parts that it measures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import psutil
from measuring import answer_parent

SEED = 0
RESULTS = Path(__file__).parent / "results"
#: Packages whose versions are recorded, if they are installed.
PACKAGES = (
    "bm25s", "datasets", "faiss-cpu", "matplotlib", "numba", "numpy", "pyarrow", "rank_bm25", "sentence-transformers",
    "tantivy", "torch", "transformers",
)  # fmt: skip


# ---- what a script says ------------------------------------------------------------------------------------------


class Run(argparse.Namespace):
    """The options of a run, and the data for its measurements."""

    sets: list[str]  # BEIR folders or Hub ids
    repeats: int
    scratch: Path  # an empty folder, deleted afterwards
    found: Any  # the earlier results of this part in the file
    save: Callable[[Any], None]  # writes the results so far


class Part(NamedTuple):
    """A section of the results: its title, the function that measures, and the one that renders Markdown."""

    title: str
    measure: Callable[[Run], Any]
    show: Callable[[Any], str]


def option(
    default: Any, about: str = "", kind: type | None = None, choices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Describe an option by its default. If the default is a list, the option takes several values."""
    several = isinstance(default, list)
    kind = kind or type(default[0] if several else default)
    described = {"default": default, "help": f"{about} (default: {default})", "type": kind, "choices": choices}
    return described | ({"nargs": "+"} if several else {})


@dataclass(frozen=True)
class Benchmark:
    """A script. The first line of its docstring is its question. Its results have the name of the file.

    Args:
        parts: The sections by name. A single section named `""` is the whole file, including its record.
        options: See `option`.
        sets: The number of sets, like `nargs` of argparse; empty: none.
        file: Returns the name of the result files from the names of the sets; the default contains all of them.
        repeats: The default number of repeats; None: no repeats.
        plot: Draws a picture of the results.
    """

    parts: dict[str, Part]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    sets: str | int = ""
    file: Callable[[list[str]], str] | None = None
    repeats: int | None = 3
    plot: Callable[[Any, Path], None] | None = None

    def run(self) -> None:
        """Measure the chosen parts and write the results; in a child process, call the requested function."""
        if answer_parent():
            return
        run = self._parser().parse_args(namespace=Run())
        run.sets = [run.sets] if isinstance(run.sets, str) else run.sets or []
        names = [set_name(one) for one in run.sets]
        stem = self.file(names) if self.file else "-".join([Path(sys.argv[0]).stem.replace("_", "-"), *names])
        target = run.out / f"{stem}.json"
        results = json.loads(target.read_text()) if target.exists() else {}
        if not run.render:
            run.out.mkdir(parents=True, exist_ok=True)
            datasets.disable_progress_bars()
            for part in run.parts:
                self._measure(part, run, results, target)
                print(self._report(results, [part]), flush=True)
                target.with_suffix(".md").write_text(self._report(results))
        else:
            target.with_suffix(".md").write_text(self._report(results))
        if self.plot:
            self.plot(results, target.with_suffix(".png"))

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            description=sys.modules["__main__"].__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if self.sets:
            parser.add_argument("sets", nargs=self.sets, metavar="SET", help="a folder in BEIR's form or a Hub id")
        for name, described in self.options.items():
            parser.add_argument(f"--{name}", **described)
        if self.repeats:
            parser.add_argument("--repeats", type=int, default=self.repeats, help=f"(default: {self.repeats})")
        if len(self.parts) > 1:
            parser.add_argument("--parts", nargs="+", choices=self.parts, default=list(self.parts), help="only these")
        parser.add_argument("--out", "--output", type=Path, default=RESULTS, help="folder of the results")
        parser.add_argument("--render", action="store_true", help="measure nothing, show the JSON that is there")
        parser.set_defaults(sets=[], **({} if len(self.parts) > 1 else {"parts": list(self.parts)}))
        return parser

    def _measure(self, part: str, run: Run, results: dict[str, Any], target: Path) -> None:
        """Measure one part with its own cache."""
        record = {
            "name": target.stem,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git_commit(),
            "machine": machine(),
            "command": command(),
            "seed": SEED,
        } | ({"repeats": run.repeats} if self.repeats else {})

        start = time.monotonic()

        def save(found: Any) -> None:
            record["wall_s"] = round(time.monotonic() - start, 1)
            results.update({part: record | {"found": found}} if part else record | found)
            target.write_text(json.dumps(results, indent=1, default=float) + "\n")

        run.save = save
        run.found = results.get(part, {}).get("found") if part else dict(results)
        with tempfile.TemporaryDirectory() as place:
            run.scratch = Path(place) / "scratch"
            run.scratch.mkdir()
            datasets.config.HF_DATASETS_CACHE = Path(place) / "cache"
            save(self.parts[part].measure(run))

    def _report(self, results: dict[str, Any], parts: Iterable[str] | None = None) -> str:
        """Return all sections with results."""
        shown = [f"# {sys.modules['__main__'].__doc__.splitlines()[0]}\n"]
        for part in self.parts if parts is None else parts:
            record = results.get(part) if part else results
            if record:
                title, _, show = self.parts[part]
                heading = f"## {title}\n\n" if title else ""
                shown.append(f"{heading}{show(record['found'] if part else record)}\n{footer(record)}\n")
        return "\n".join(shown)


def set_name(source: str) -> str:
    """Return the last word of a set's path or Hub id."""
    return Path(source).resolve().name


# ---- what is recorded --------------------------------------------------------------------------------------------


def command() -> str:
    """Return the command of this run, with names instead of paths."""
    words = [Path(word).resolve().name if Path(word).exists() else word for word in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def machine() -> dict[str, Any]:
    """Describe the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "cpu": next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor()),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "versions": versions,
    }


def git_commit() -> str:
    """Return the commit, marked if the library has changes; "unknown" without a repository."""
    if not shutil.which("git"):
        return "unknown"

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "HEAD") or "unknown"
    return commit + ("-dirty" if git("status", "--porcelain", "--", "../hnm_datasets") else "")


# ---- Markdown ----------------------------------------------------------------------------------------------------


def spread(times: dict[str, Any], digits: int = 3, unit: str = " s") -> str:
    """Show a summary of seconds."""
    middle, low, high = (f"{times[name]:.{digits}f}" for name in ("median_s", "min_s", "max_s"))
    return f"{middle}{unit} ({low} to {high})"


def table(head: str, rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table of strings, whole numbers and summaries of seconds; `|` separates the column names."""

    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return spread(value)
        return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)

    names = head.split("|")
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in (names, ["---"] * len(names), *rows))


def footer(record: dict[str, Any]) -> str:
    """Return the command, machine and versions of a section."""
    on, (commit, _, dirty) = record["machine"], record["commit"].partition("-")
    how = [f"`{record['command']}`"] if "command" in record else []
    how += [f"{record['repeats']} repeats"] if "repeats" in record else []
    versions = ", ".join(" ".join(pair) for pair in on["versions"].items())
    return (
        f"{', '.join(how)}. {on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB; {record['date'][:10]}, commit "
        f"{commit[:12]}{'-dirty' * bool(dirty)}; {versions}."
    )
