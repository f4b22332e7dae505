"""What the benchmarks share: timing, processes of their own, synthetic rows, and reports."""

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
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import psutil
import pyarrow as pa
from datasets import Dataset, concatenate_datasets, load_from_disk

SEED = 0
SYNTHETIC_ROWS, SYNTHETIC_CANDIDATES, SYNTHETIC_PASSAGES = 100_000, 100, 50_000
RESULTS = Path(__file__).parent / "results"


def timed(run: Callable[[], Any], repeats: int) -> tuple[dict[str, Any], Any]:
    """Return the seconds of each repeat, their median, and the last answer."""
    seconds, answer = [], None
    for _ in range(repeats):
        answer = None
        start = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - start)
    return spread_of(seconds), answer


def spread_of(seconds: list[float]) -> dict[str, Any]:
    """Summarise the seconds of several repeats."""
    return {"median_s": median(seconds), "min_s": min(seconds), "max_s": max(seconds), "all_s": seconds}


def spread(times: dict[str, Any]) -> str:
    """Show a summary of seconds."""
    return f"{times['median_s']:.3f} s ({times['min_s']:.3f} to {times['max_s']:.3f})"


def on_disk(rows: Dataset, folder: Path) -> Dataset:
    """Write the rows and map them from disk, as `map` caches only such rows."""
    rows.save_to_disk(folder)
    return load_from_disk(folder)


def synthetic_rows(folder: Path) -> Dataset:
    """Write rows with random candidates."""
    rng = np.random.default_rng(SEED)
    n, k, parts = SYNTHETIC_ROWS, SYNTHETIC_CANDIDATES, 10
    names = pa.array([f"passage-{i}" for i in range(SYNTHETIC_PASSAGES)])

    def part(number: int) -> Dataset:
        size = n // parts
        offsets = pa.array(np.arange(size + 1, dtype=np.int32) * k)
        scores = -np.sort(-rng.uniform(5, 30, (size, k)).astype(np.float32), axis=1)
        lists = {
            "negative_ids": names.take(pa.array(rng.integers(0, len(names), size * k))),
            "negative_scores": pa.array(scores.ravel()),
            "negative_ranks": pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), size)),
            "negative_source": pa.repeat("bm25", size * k),
        }
        ids = range(number * size, (number + 1) * size)
        texts = {"query_id": [f"q{i}" for i in ids], "query": [f"what is the answer to question {i}?" for i in ids]}
        columns = {name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()}
        return Dataset(pa.table({name: pa.array(values) for name, values in texts.items()} | columns))

    return on_disk(concatenate_datasets([part(number) for number in range(parts)]), folder)


def time_steps(rows: Dataset, steps: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Time each step over all rows through `map`, after a few rows that compile it."""
    found = {}
    for name, step in steps.items():
        rows.select(range(100)).map(step, batched=True, load_from_cache_file=False)
        found[name], mapped = timed(lambda step=step: rows.map(step, batched=True, load_from_cache_file=False), repeats)
        for file in mapped.cache_files:
            Path(file["filename"]).unlink()
    return found


def machine(names: tuple[str, ...]) -> dict[str, Any]:
    """Describe what the numbers were measured on, with the versions of these packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


def git_commit() -> str:
    """Return the commit, marked if the library differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", "../hnm_datasets") else "")


# ---- a process of its own for each measurement -------------------------------------------------------------------


def in_child(task: str, cache: Path, *, watch: bool = False, **options: Any) -> dict[str, Any]:
    """Run one of the script's tasks in a fresh process; with `watch`, add the most memory of its `measured` block."""
    command = [sys.executable, sys.argv[0], "--child", task, json.dumps(options, default=str)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache)}
    memory: dict[str, int] = {}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child,
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
            raise RuntimeError(f"{task} {options} failed:\n{errors.read()[-4000:]}")
    return json.loads(line) | ({"memory": memory} if watch else {})


def memory_of(process: psutil.Process, own: bool = True) -> dict[str, int]:
    """Return the bytes that a process holds, counted in three ways, or in the two that are cheap to tell."""
    info = process.memory_full_info() if own else process.memory_info()
    found = {"rss": info.rss, "anonymous": info.rss - info.shared}
    return found | ({"uss": info.uss} if own else {})


@contextlib.contextmanager
def measured(spent: dict[str, float]) -> Iterator[None]:
    """Time a block, and let the parent see where it begins and ends."""
    spent.clear()
    gc.collect()
    print("begin", flush=True, file=sys.__stdout__)
    sys.stdin.readline()
    start = time.perf_counter()
    yield
    spent["total"] = time.perf_counter() - start
    print("end", flush=True, file=sys.__stdout__)


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


# ---- reports in sections -----------------------------------------------------------------------------------------

MIB = 2**20
PACKAGES = ("datasets", "faiss-cpu", "numba", "numpy", "pyarrow", "sentence-transformers", "torch")
#: A part's title, what measures it, and what shows what was found.
Parts = dict[str, tuple[str, Callable[..., Any], Callable[[Any], str]]]


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table; the head's names are parted by `|`."""
    names = head.split("|")
    return "".join("| " + " | ".join(line) + " |\n" for line in (names, ["---"] * len(names), *rows))


def markdown(name: str, parts: Parts, sections: dict[str, Any]) -> str:
    """Return the sections that there are."""
    shown = [f"# {name.replace('-', ' ').capitalize()}\n"]
    for part, (title, _, show) in parts.items():
        if part not in sections:
            continue
        one = sections[part]
        on, commit = one["machine"], one["commit"].partition("-")
        versions = ", ".join(" ".join(pair) for pair in on["versions"].items())
        shown.append(
            f"## {title}\n\n{show(one['found'])}\n`{one['command']}`, {one['repeats']} repeats. {on['cpu']}, "
            f"{on['cores']} cores, {on['memory_gib']} GiB; {one['date'][:10]}, commit "
            f"{commit[0][:12]}{''.join(commit[1:])}; {versions}.\n"
        )
    return "\n".join(shown)


def run_script(parser: argparse.ArgumentParser, parts: Parts, tasks: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Measure the chosen parts and write their sections, or do one task for the parent process."""
    if sys.argv[1:2] == ["--child"]:
        # What libraries print goes elsewhere: the parent reads this process's output.
        sys.stdout = sys.stderr
        print(json.dumps(tasks[sys.argv[2]](**json.loads(sys.argv[3]))), file=sys.__stdout__)
        return
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="only these")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the results go")
    args = parser.parse_args()
    # Names in place of paths.
    folders = [Path(folder).resolve().name for folder in getattr(args, "folders", [])]
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *folders]
    for key, value in vars(args).items():
        if key not in ("folders", "output") and value != parser.get_default(key):
            shown = value if isinstance(value, list) else [value]
            words += [
                f"--{key.replace('_', '-')}",
                *(Path(str(one)).name if Path(str(one)).exists() else str(one) for one in shown),
            ]
    name = "-".join([Path(sys.argv[0]).stem.replace("_", "-"), *folders])
    target = args.output / f"{name}.json"
    args.output.mkdir(parents=True, exist_ok=True)
    sections = json.loads(target.read_text()) if target.exists() else {}
    datasets.disable_progress_bars()
    for part in args.parts:
        with tempfile.TemporaryDirectory() as place:
            datasets.config.HF_DATASETS_CACHE = Path(place) / "own"
            found = parts[part][1](args, Path(place) / part)
        sections[part] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git_commit(),
            "machine": machine(PACKAGES),
            "command": " ".join(words),
            "repeats": args.repeats,
            "found": found,
        }
        target.write_text(json.dumps(sections, indent=1) + "\n")
        target.with_suffix(".md").write_text(markdown(name, parts, sections))
        print(markdown(name, parts, {part: sections[part]}), flush=True)
