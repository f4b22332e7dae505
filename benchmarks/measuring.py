"""Timing, memory, and a separate process for each measurement."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import psutil

MIB = 2**20

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
    """Return a summary of the seconds of each repeat, and the last result."""
    seconds, answer = [], None
    for _ in range(repeats):
        answer = None
        start = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - start)
    return spread_of(seconds), answer


def in_turns(runs: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[Any]]:
    """Call each alternately, so a slow period of the machine affects all of them, and return their results."""
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
    """Return the memory of a process in bytes, measured in three ways, or in the two cheap ones."""
    info = process.memory_full_info() if own else process.memory_info()
    found = {"rss": info.rss, "anonymous": info.rss - info.shared}
    return found | ({"uss": info.uss} if own else {})


def memory_together(processes: Iterable[psutil.Process]) -> dict[str, int]:
    """Return the memory of several processes in bytes; `pss` counts shared memory once."""
    found: Counter[str] = Counter()
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended
            info = process.memory_full_info()
            found.update(rss=info.rss, anonymous=info.rss - info.shared, uss=info.uss, pss=info.pss)
    return found


class Watch(threading.Thread):
    """Record the largest value of each number that a function returns while a block runs."""

    def __init__(self, look: Callable[[], dict[str, int]], every: float) -> None:
        super().__init__(daemon=True)
        self.look, self.every = look, every
        self.peak: Counter[str] = Counter()
        self.over = threading.Event()

    def run(self) -> None:
        """Measure at each interval."""
        while not self.over.wait(self.every):
            self.peak |= Counter(self.look())

    def __enter__(self) -> Counter[str]:
        self.start()
        return self.peak

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


# ---- a process of its own for each measurement -------------------------------------------------------------------


def start_child(
    function: Callable[..., Any], cache: Path, options: dict[str, Any], compiled: Path | None = None, **streams: Any
) -> Any:
    """Start a process that calls a function of the script with its own cache folder.

    Args:
        function: The function.
        cache: The cache folder of `datasets`.
        options: The arguments of the function.
        compiled: The folder of compiled code; None: the usual one.
        streams: As `subprocess.Popen` takes them.
    """
    words = [sys.executable, sys.argv[0], "--child", function.__name__, json.dumps(options, default=str)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache)}
    if compiled is not None:
        environment["NUMBA_CACHE_DIR"] = str(compiled)
    return subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, text=True, **streams)


def answer_parent() -> bool:
    """Run the call of `start_child` if this process is a child; options and result must be JSON-serializable."""
    if sys.argv[1:2] != ["--child"]:
        return False
    # Redirect the output of libraries, because the parent reads stdout.
    sys.stdout = sys.stderr
    answer = getattr(sys.modules["__main__"], sys.argv[2])(**json.loads(sys.argv[3]))
    print(json.dumps(answer, default=float), file=sys.__stdout__)
    return True


def in_child(
    function: Callable[..., Any], cache: Path, *, watch: bool = False, compiled: Path | None = None, **options: Any
) -> dict[str, Any]:
    """Call a function in a fresh process; with `watch`, add the peak memory of its `measured` block to the result."""
    memory: dict[str, int] = {}
    with (
        tempfile.TemporaryFile("w+") as errors,
        start_child(function, cache, options, compiled, stdout=subprocess.PIPE, stderr=errors) as child,
    ):
        while (line := child.stdout.readline()) == "begin\n":
            process, looks = psutil.Process(child.pid), itertools.count()
            before = memory_of(process)

            def look(process: Any = process, before: Any = before, looks: Any = looks) -> dict[str, int]:
                # Counting unshared memory stops the process, so do it only twice per second.
                now = memory_of(process, own=next(looks) % 25 == 0)
                return {name: now[name] - before[name] for name in now}

            with Watch(look, 0.02) if watch else contextlib.nullcontext({}) as peak:
                child.stdin.write("go\n")
                child.stdin.flush()
                child.stdout.readline()
            memory = dict.fromkeys(before, 0) | peak
        if child.wait() or not line:
            errors.seek(0)
            raise RuntimeError(f"{function.__name__} {options} failed:\n{errors.read()[-4000:]}")
    return json.loads(line) | ({"memory": memory} if watch else {})


@contextlib.contextmanager
def measured(spent: dict[str, float] | None = None) -> Iterator[dict[str, float]]:
    """Time a block of a child process as `spent["total"]`, and tell the parent when it begins and ends."""
    spent = {} if spent is None else spent
    spent.clear()
    gc.collect()
    print("begin", flush=True, file=sys.__stdout__)
    sys.stdin.readline()
    start = time.perf_counter()
    yield spent
    spent["total"] = time.perf_counter() - start
    print("end", flush=True, file=sys.__stdout__)
