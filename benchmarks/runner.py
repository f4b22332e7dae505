"""Runs the benchmarks: options, timing, a process of its own for each measurement, JSON and Markdown.

A script holds what it measures. It describes itself as a `Benchmark` and calls `run` on it:

    python benchmarks/SCRIPT.py [SET...] [options]           # measure, write JSON and Markdown to --out
    python benchmarks/SCRIPT.py [SET...] --render            # write the Markdown again from the JSON

A SET is a folder in BEIR's form or a Hub id. Each part of a script is a section of its results; a run replaces only the
sections of the parts that it measures. Functions that `in_child` runs take and return what JSON holds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import datasets
import psutil

SEED = 0
MIB = 2**20
RESULTS = Path(__file__).parent / "results"
#: Packages whose versions are noted, where they are installed.
PACKAGES = (
    "bm25s", "datasets", "faiss-cpu", "matplotlib", "numba", "numpy", "pyarrow", "rank_bm25", "sentence-transformers",
    "torch", "transformers",
)  # fmt: skip


# ---- what a script says ------------------------------------------------------------------------------------------


class Run(argparse.Namespace):
    """The options of a run, and what its measurements need.

    Attributes:
        sets: Folders in BEIR's form or Hub ids.
        repeats: How often each measurement is repeated.
        scratch: An empty folder, deleted afterwards.
        found: What the result file already holds of this part.
        save: Writes what was found so far.
    """

    sets: list[str]
    repeats: int
    scratch: Path
    found: Any
    save: Callable[[Any], None]


class Part(NamedTuple):
    """A section of the results: its title, what measures it, and what shows what was found as Markdown."""

    title: str
    measure: Callable[[Run], Any]
    show: Callable[[Any], str]


def option(
    default: Any, about: str = "", kind: type | None = None, choices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Describe an option by its default; one that is a list takes several values."""
    several = isinstance(default, list)
    kind = kind or type(default[0] if several else default)
    described = {"default": default, "help": f"{about} (default: {default})", "type": kind, "choices": choices}
    return described | ({"nargs": "+"} if several else {})


@dataclass(frozen=True)
class Benchmark:
    """A script: its name, which also names the results, and what it measures.

    Args:
        name: In words.
        about: The script's docstring; its first line is the question that the script answers.
        parts: The sections by name. A single one named `""` fills the whole file, its record included.
        options: See `option`.
        sets: How many sets it takes, as argparse's `nargs`; empty: none.
        file: Returns the name of the result files for the names of the sets; by default all of them are in it.
        repeats: The default; None: nothing is repeated.
        plot: Draws a picture of the results.
    """

    name: str
    about: str
    parts: dict[str, Part]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    sets: str = ""
    file: Callable[[list[str]], str] | None = None
    repeats: int | None = 3
    plot: Callable[[Any, Path], None] | None = None

    def run(self) -> None:
        """Measure the chosen parts and write the results; in a child process, call the function that is asked for."""
        if sys.argv[1:2] == ["--child"]:
            # What libraries print goes elsewhere: the parent reads this process's output.
            sys.stdout = sys.stderr
            answer = getattr(sys.modules["__main__"], sys.argv[2])(**json.loads(sys.argv[3]))
            print(json.dumps(answer, default=float), file=sys.__stdout__)
            return
        parser = self._parser()
        run = parser.parse_args(namespace=Run())
        run.sets = [run.sets] if isinstance(run.sets, str) else run.sets or []
        names = [set_name(one) for one in run.sets]
        stem = self.file(names) if self.file else "-".join([self._stem, *names])
        target = run.out / f"{stem}.json"
        results = json.loads(target.read_text()) if target.exists() else {}
        if not run.render:
            run.out.mkdir(parents=True, exist_ok=True)
            datasets.disable_progress_bars()
            for part in run.parts:
                self._measure(part, run, parser, results, target)
                print(self._report(stem, results, [part]), flush=True)
        target.with_suffix(".md").write_text(self._report(stem, results))
        if self.plot:
            self.plot(results, target.with_suffix(".png"))

    @property
    def _stem(self) -> str:
        return self.name.lower().replace(" ", "-")

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            description=self.about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
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

    def _measure(
        self, part: str, run: Run, parser: argparse.ArgumentParser, results: dict[str, Any], target: Path
    ) -> None:
        """Measure one part in caches of its own."""
        record = {
            "name": target.stem,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git_commit(),
            "machine": machine(),
            "command": command(run, parser),
            "seed": SEED,
        } | ({"repeats": run.repeats} if self.repeats else {})

        def save(found: Any) -> None:
            results.update({part: record | {"found": found}} if part else record | found)
            target.write_text(json.dumps(results, indent=1, default=float) + "\n")

        run.save = save
        run.found = results.get(part, {}).get("found") if part else dict(results)
        with tempfile.TemporaryDirectory() as place:
            run.scratch = Path(place) / "scratch"
            run.scratch.mkdir()
            datasets.config.HF_DATASETS_CACHE = Path(place) / "cache"
            save(self.parts[part].measure(run))

    def _report(self, stem: str, results: dict[str, Any], parts: Iterable[str] | None = None) -> str:
        """Return the sections that there are."""
        more = stem.removeprefix(self._stem).strip("-")
        shown = [f"# {self.name}{': ' * bool(more)}{more}\n\n{self.about.splitlines()[0]}\n"]
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


def command(run: Run, parser: argparse.ArgumentParser) -> str:
    """Return the command of a run, with names in place of paths."""
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(set_name, run.sets)]
    for key, value in vars(run).items():
        if key in ("sets", "out", "render", "scratch", "found", "save") or value == parser.get_default(key):
            continue
        shown = [str(one) for one in (value if isinstance(value, list) else [value])]
        words += [f"--{key.replace('_', '-')}", *(Path(one).name if Path(one).exists() else one for one in shown)]
    return " ".join(words)


def machine() -> dict[str, Any]:
    """Describe what the numbers are measured on."""
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
    """Return the commit, marked if the library differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", "../hnm_datasets") else "")


# ---- timing ------------------------------------------------------------------------------------------------------


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def spread_of(seconds: Sequence[float]) -> dict[str, Any]:
    """Summarize the seconds of several repeats."""
    return {"median_s": median(seconds), "min_s": min(seconds), "max_s": max(seconds), "all_s": list(seconds)}


def timed(run: Callable[[], Any], repeats: int) -> tuple[dict[str, Any], Any]:
    """Return a summary of the seconds of each repeat, and the last answer."""
    seconds, answer = [], None
    for _ in range(repeats):
        answer = None
        start = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - start)
    return spread_of(seconds), answer


def in_turns(runs: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[Any]]:
    """Call each in turn, so that a slow minute of the machine affects all of them, and return their answers."""
    answers: dict[Any, list[Any]] = {name: [] for name in runs}
    for _, (name, run) in itertools.product(range(repeats), runs.items()):
        answers[name].append(run())
    return answers


def clocked(spent: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the seconds spent inside a function to `spent[name]`."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    return run


# ---- memory ------------------------------------------------------------------------------------------------------


def memory_of(process: psutil.Process, own: bool = True) -> dict[str, int]:
    """Return the bytes that a process holds, counted in three ways, or in the two that are cheap to count."""
    info = process.memory_full_info() if own else process.memory_info()
    found = {"rss": info.rss, "anonymous": info.rss - info.shared}
    return found | ({"uss": info.uss} if own else {})


def memory_together(processes: Iterable[psutil.Process]) -> dict[str, int]:
    """Return the bytes that several processes hold; in `pss` what they share is counted once."""
    found: Counter[str] = Counter()
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended
            info = process.memory_full_info()
            found.update(rss=info.rss, anonymous=info.rss - info.shared, uss=info.uss, pss=info.pss)
    return found


class Watch(threading.Thread):
    """The largest value of each number that a function returns while a block runs."""

    def __init__(self, look: Callable[[], dict[str, int]], every: float) -> None:
        super().__init__(daemon=True)
        self.look, self.every = look, every
        self.peak: Counter[str] = Counter()
        self.over = threading.Event()

    def run(self) -> None:
        """Look every so many seconds."""
        while not self.over.wait(self.every):
            self.peak |= Counter(self.look())

    def __enter__(self) -> Counter[str]:
        self.start()
        return self.peak

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


# ---- a process of its own for each measurement -------------------------------------------------------------------


def start_child(function: Callable[..., Any], cache: Path, options: dict[str, Any], **streams: Any) -> Any:
    """Start a process that calls a function of the script, with a cache folder of its own."""
    words = [sys.executable, sys.argv[0], "--child", function.__name__, json.dumps(options, default=str)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache)}
    return subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, text=True, **streams)


def in_child(function: Callable[..., Any], cache: Path, *, watch: bool = False, **options: Any) -> dict[str, Any]:
    """Call a function in a fresh process; with `watch`, add the peak memory of its `measured` block to its answer."""
    memory: dict[str, int] = {}
    with (
        tempfile.TemporaryFile("w+") as errors,
        start_child(function, cache, options, stdout=subprocess.PIPE, stderr=errors) as child,
    ):
        while (line := child.stdout.readline()) == "begin\n":
            process = psutil.Process(child.pid)
            before = memory_of(process)
            child.stdin.write("go\n")
            child.stdin.flush()
            looks = itertools.count()
            while watch and not select.select([child.stdout], [], [], 0.02)[0]:
                # To count what is not shared stops the process for as long as it takes: it is done twice a second.
                now = memory_of(process, own=next(looks) % 25 == 0)
                memory |= {name: max(memory.get(name, 0), now[name] - before[name]) for name in now}
            child.stdout.readline()
        if child.wait() or not line:
            errors.seek(0)
            raise RuntimeError(f"{function.__name__} {options} failed:\n{errors.read()[-4000:]}")
    return json.loads(line) | ({"memory": memory} if watch else {})


@contextlib.contextmanager
def measured(spent: dict[str, float] | None = None) -> Iterator[dict[str, float]]:
    """Time a block of a child process as `spent["total"]`, and let the parent see where it begins and ends."""
    spent = {} if spent is None else spent
    spent.clear()
    gc.collect()
    print("begin", flush=True, file=sys.__stdout__)
    sys.stdin.readline()
    start = time.perf_counter()
    yield spent
    spent["total"] = time.perf_counter() - start
    print("end", flush=True, file=sys.__stdout__)


# ---- Markdown ----------------------------------------------------------------------------------------------------


def spread(times: dict[str, Any], digits: int = 3, unit: str = " s") -> str:
    """Show a summary of seconds."""
    middle, low, high = (f"{times[name]:.{digits}f}" for name in ("median_s", "min_s", "max_s"))
    return f"{middle}{unit} ({low} to {high})"


def table(head: str, rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table of strings, whole numbers and summaries of seconds; `|` parts the names of its head."""

    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return spread(value)
        return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)

    names = head.split("|")
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in (names, ["---"] * len(names), *rows))


def footer(record: dict[str, Any]) -> str:
    """Return what a section was measured with and on."""
    on, (commit, _, dirty) = record["machine"], record["commit"].partition("-")
    how = [f"`{record['command']}`"] if "command" in record else []
    how += [f"{record['repeats']} repeats"] if "repeats" in record else []
    versions = ", ".join(" ".join(pair) for pair in on["versions"].items())
    return (
        f"{', '.join(how)}. {on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB; {record['date'][:10]}, commit "
        f"{commit[:12]}{'-dirty' * bool(dirty)}; {versions}."
    )
