"""What does mining from larger corpora need? Computed from the constants that scale.py has measured.

    python benchmarks/placement.py                                   # from benchmarks/results/scale.json
    python benchmarks/placement.py --passages 1e8 --dimension 768 --cores 64 --memory 256 --encode 2000

The growth with the corpus is fitted on the two smallest measured sizes. Bytes, memory, building and searching grow with
the number of passages. Training and filling an IVF index grow with passages times lists. The number of lists is four
times the square root of the number of passages, and a sixteenth of the lists is searched. The fit also predicts every
larger measured size, and the prediction is compared with the measurement.

The dense index is exact up to `--exact` passages, then IVF while it fits in the memory of a machine, then IVF with one
byte per number. Each machine has a shard of the corpus and searches it for all queries.

These are assumptions, not measurements: speed is proportional to the number of cores and machines; vectors with more
dimensions are proportionally slower to train and search and larger to store; and `--encode`, unless it keeps its
default, the measured speed of MiniLM. Disk is the sum of the corpus, vectors in float16 and the indexes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from runner import RESULTS, Benchmark, Part, Run, option, table

QUERIES, MEASURED_DIMENSION, MEASURED_CORES = 10_000, 64, 2
#: IVF in scale.py: training vectors per list and at least, and the number of iterations.
PER_LIST, LEAST, ROUNDS = 64, 50_000, 10
MEMORY = "bm25: bytes of memory to build"
#: Passages per chunk while BM25 counts words.
CHUNK = 20_000
#: The usable share of a machine's memory.
USED = 0.8
#: A prediction is right if it differs from the measurement by at most this factor.
RIGHT = 1.5


class Line(NamedTuple):
    """A quantity that grows linearly with another."""

    start: float
    slope: float

    def at(self, x: float) -> float:
        """Return the value at x."""
        return self.start + self.slope * x

    @classmethod
    def through(cls, one: tuple[float, float], other: tuple[float, float]) -> Line:
        """Return the line through two points, or through 0 and the second point if the intercept would be negative."""
        slope = (other[1] - one[1]) / (other[0] - one[0])
        start = one[1] - slope * one[0]
        return cls(start, slope) if start >= 0 else cls(0.0, other[1] / other[0])


def lists_of(passages: float) -> int:
    return 4 * int(math.sqrt(passages))


def comparisons(passages: float) -> float:
    """Return the number of comparisons of vectors and lists to build an IVF index."""
    lists = lists_of(passages)
    training = min(max(LEAST, PER_LIST * lists), passages)
    return lists * (ROUNDS * training + passages)


def measured(run: dict[str, Any]) -> dict[str, float]:
    """Return the quantities that scale.py measured for one size, by name."""
    made, mined = run["made"], run["mined"]
    found = {f"{what}: seconds to build": one["seconds"] for what, one in made.items()}
    found |= {f"{what}: bytes on disk": one["bytes"] for what, one in made.items()}
    found |= {MEMORY: made["bm25"]["memory"]["anonymous"]}
    return found | {
        f"{source}: seconds to mine": median(run["seconds"] for run in ways["map"]) for source, ways in mined.items()
    }


class Model:
    """The constants of one machine, from two measured sizes."""

    def __init__(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        small, large = measured(one), measured(other)
        self.lines = {
            what: Line.through((_work(what, one["size"]), small[what]), (_work(what, other["size"]), large[what]))
            for what in small
        }
        if one["size"] < CHUNK < other["size"]:
            # The smaller corpus was a part of a chunk; the larger one needed a whole chunk and the counts.
            chunk = small[MEMORY] / one["size"] * CHUNK
            slope = (large[MEMORY] - chunk) / (other["size"] - CHUNK)
            self.lines[MEMORY] = Line(chunk - slope * CHUNK, slope)

    def predict(self, passages: float, shards: int = 1) -> dict[str, float]:
        """Predict all quantities that scale.py measures at a size; BM25 is built shard by shard."""
        found = {what: line.at(_work(what, passages)) for what, line in self.lines.items()}
        return found | {MEMORY: self.lines[MEMORY].at(passages / shards)}


def _work(what: str, passages: float) -> float:
    """Return the variable that a quantity grows with."""
    return comparisons(passages) if what in ("ivf: seconds to build", "compressed: seconds to build") else passages


def plan(model: Model, passages: float, run: Run) -> dict[str, Any]:
    """Return the needs of a corpus of a given size."""
    at, wide = model.predict(passages), run.dimension / MEASURED_DIMENSION
    room = run.memory * 2**30 * USED
    vectors = 2 * run.dimension * passages
    kind, index = "exact", 0.0
    if passages > run.exact:
        kind, index = "ivf", (4 * run.dimension + 8) * passages
        if index > room:
            kind, index = "compressed", (run.dimension + 8) * passages
    names = {"exact": "exact", "ivf": f"IVF{lists_of(passages)},Flat", "compressed": f"IVF{lists_of(passages)},SQ8"}
    # The data of a search should stay in memory: the postings, and the index or the vectors.
    held = max(at["bm25: bytes on disk"], index or vectors)
    machines = math.ceil(held / room)
    # A shard cannot be built if counting its words needs more memory than the machine has.
    shards = max(machines, math.ceil(at[MEMORY] / room))
    cores = run.cores / MEASURED_CORES * machines
    build = at["corpus: seconds to build"] + at["bm25: seconds to build"]
    build += at.get(f"{kind}: seconds to build", 0.0) * wide
    mine = at["bm25: seconds to mine"] + at[f"{kind}: seconds to mine"] * wide
    return {
        "passages": passages,
        "index": names[kind],
        "disk": at["corpus: bytes on disk"] + at["bm25: bytes on disk"] + vectors + index,
        "held": held,
        "machines": machines,
        "shards": shards,
        "encode": passages / run.encode / machines,
        "build": build / cores,
        "mine": mine * run.queries / QUERIES / cores,
    }


def size_of(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number < 1e10 else f"{number / 1e9:,.0f} GB"


def hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.0f} h"


def measure(run: Run) -> dict[str, Any]:
    """Fit on the two smallest sizes, plan, and predict the others."""
    sections = json.loads(run.measured.read_text())
    sizes = sorted(sections["scale"]["found"], key=lambda one: one["size"])
    if len(sizes) < 3:
        raise SystemExit(f"{run.measured} has {len(sizes)} sizes, and needs three: two to learn from, one to check.")
    if run.encode is None:
        run.encode = sections["encode"]["found"]["per_second"] * run.cores / MEASURED_CORES
    model = Model(*sizes[:2])
    return {
        **{name: getattr(run, name) for name in ("queries", "dimension", "cores", "memory", "encode")},
        "plans": [plan(model, passages, run) for passages in run.passages],
        "learned": [one["size"] for one in sizes[:2]],
        "measured_on": sections["scale"]["machine"],
        "checks": [
            {
                "size": one["size"],
                "predicted": model.predict(one["size"], one["made"]["bm25"].get("shards", 1)),
                "measured": measured(one),
            }
            for one in sizes[2:]
        ],
    }


def show(found: dict[str, Any]) -> str:
    plans = [
        (
            f"{it['passages']:,.0f}", it["index"], size_of(it["disk"]), size_of(it["held"]), it["machines"],
            it["shards"], hours(it["encode"]), hours(it["build"]), hours(it["mine"]),
        )
        for it in found["plans"]
    ]  # fmt: skip
    small, large = found["learned"]
    on = found["measured_on"]
    return (
        f"{found['queries']:,.0f} queries, vectors of {found['dimension']} dimensions, machines of {found['cores']} "
        f"cores and {found['memory']:g} GiB, {found['encode']:,.0f} passages encoded a second and machine. Passages of "
        f"50 words.\n\n"
        + table(
            "Passages|Dense index|Disk|Held in memory|Machines|Shards of BM25|Encode|Build indexes|Mine, both", plans
        )
        + f"\nLearned from {small:,} and {large:,} passages; {on['cpu']}, {on['cores']} cores.\n"
        + "".join(map(show_check, found["checks"]))
    )


def show_check(one: dict[str, Any]) -> str:
    """Show the prediction for a size and the measurement."""
    predicted, found = one["predicted"], one["measured"]
    ratios = {what: predicted[what] / value for what, value in found.items()}
    wrong = [what for what, ratio in ratios.items() if not 1 / RIGHT <= ratio <= RIGHT]
    rows = []
    for what, value in found.items():
        unit = 1e6 if "bytes" in what else 1
        numbers = f"{predicted[what] / unit:,.1f}", f"{value / unit:,.1f}", f"{ratios[what]:.2f}"
        rows.append((what.replace("bytes", "MB"), *numbers))
    return (
        f"\n## Prediction against measurement, {one['size']:,} passages\n\n"
        f"{'All' if not wrong else 'All but ' + ', '.join(wrong)} within a factor of {RIGHT}.\n\n"
        + table("What|Predicted|Measured|Ratio", rows)
    )


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {
            "measured": option(RESULTS / "scale.json", "what scale.py wrote", Path),
            "passages": option([1e5, 1e7, 1e9], "sizes to plan for"),
            "queries": option(1e6, "queries to mine for"),
            "dimension": option(384, "of the vectors"),
            "exact": option(1e6, "exact search up to so many passages"),
            "cores": option(16, "of a machine"),
            "memory": option(64.0, "GiB of a machine, four fifths of which are used"),
            "encode": option(None, "passages a second and machine; without it as measured, by cores", float),
        },
        repeats=None,
    ).run()
