"""Compute what mining from larger corpora needs, from the constants that scale.py has measured.

    python benchmarks/placement.py                                   # from benchmarks/results/scale.json
    python benchmarks/placement.py --passages 1e8 --dimension 768 --cores 64 --memory 256 --encode 2000

What grows with the corpus is taken from the two smallest measured sizes. Bytes, memory, building and searching grow
with the passages; training and filling an IVF index with passages times lists, where the lists are four times the root
of the passages and a sixteenth of them is searched. Every larger measured size is predicted too, and compared with what
was measured there.

The dense index is exact up to `--exact` passages, then IVF while it fits into a machine, then IVF with a byte for each
number. Each machine holds a part of the corpus and answers all queries from it.

Assumed, not measured: that more cores and machines are as many times as fast; that vectors of more dimensions take
proportionally longer to train, search and store; and `--encode`, unless it is left at what MiniLM does here. Disk is
that of the corpus, of vectors in float16 and of the indexes. Writes placement.md to `--output`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from runner import RESULTS, table

QUERIES, MEASURED_DIMENSION, MEASURED_CORES = 10_000, 64, 2
#: Of IVF, as scale.py builds it: vectors to train on for each list and at least, and how often they are gone over.
PER_LIST, LEAST, ROUNDS = 64, 50_000, 10
MEMORY = "bm25: bytes of memory to build"
#: Passages whose words are held at once while BM25 counts them.
CHUNK = 20_000
#: How much of a machine's memory may be used.
USED = 0.8
#: A quantity of this share of the measured one, or its inverse, is right.
RIGHT = 1.5


class Line(NamedTuple):
    """What grows along a straight line with something else."""

    start: float
    slope: float

    def at(self, x: float) -> float:
        """Return the value at x."""
        return self.start + self.slope * x

    @classmethod
    def through(cls, one: tuple[float, float], other: tuple[float, float]) -> Line:
        """Return the line through two points, or through the second and 0 where it would begin below 0."""
        slope = (other[1] - one[1]) / (other[0] - one[0])
        start = one[1] - slope * one[0]
        return cls(start, slope) if start >= 0 else cls(0.0, other[1] / other[0])


def lists_of(passages: float) -> int:
    return 4 * int(math.sqrt(passages))


def comparisons(passages: float) -> float:
    """Return how many vectors are compared with how many lists to build an IVF index."""
    lists = lists_of(passages)
    training = min(max(LEAST, PER_LIST * lists), passages)
    return lists * (ROUNDS * training + passages)


def measured(run: dict[str, Any]) -> dict[str, float]:
    """Name the quantities of one size that scale.py has measured."""
    made, mined = run["made"], run["mined"]
    found = {f"{what}: seconds to build": one["seconds"] for what, one in made.items()}
    found |= {f"{what}: bytes on disk": one["bytes"] for what, one in made.items()}
    found |= {MEMORY: made["bm25"]["memory"]["anonymous"]}
    return found | {f"{source}: seconds to mine": median(ways["map"]) for source, ways in mined.items()}


def median(runs: list[dict[str, Any]]) -> float:
    seconds = sorted(run["seconds"] for run in runs)
    return seconds[len(seconds) // 2]


class Model:
    """The constants of one machine, from two measured sizes."""

    def __init__(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        small, large = measured(one), measured(other)
        self.lines = {
            what: Line.through((_work(what, one["size"]), small[what]), (_work(what, other["size"]), large[what]))
            for what in small
        }
        if one["size"] < CHUNK < other["size"]:
            # The smaller corpus was a part of a chunk, the larger one held a whole chunk and the counts.
            chunk = small[MEMORY] / one["size"] * CHUNK
            slope = (large[MEMORY] - chunk) / (other["size"] - CHUNK)
            self.lines[MEMORY] = Line(chunk - slope * CHUNK, slope)

    def predict(self, passages: float) -> dict[str, float]:
        """Predict everything that scale.py measures at a size."""
        return {what: line.at(_work(what, passages)) for what, line in self.lines.items()}


def _work(what: str, passages: float) -> float:
    """Return what a quantity grows with."""
    return comparisons(passages) if what in ("ivf: seconds to build", "compressed: seconds to build") else passages


def plan(model: Model, passages: float, args: argparse.Namespace) -> tuple[str, ...]:
    """Say what a corpus of a size needs."""
    at, wide = model.predict(passages), args.dimension / MEASURED_DIMENSION
    room = args.memory * 2**30 * USED
    vectors = 2 * args.dimension * passages
    kind, index = "exact", 0.0
    if passages > args.exact:
        kind, index = "ivf", (4 * args.dimension + 8) * passages
        if index > room:
            kind, index = "compressed", (args.dimension + 8) * passages
    names = {"exact": "exact", "ivf": f"IVF{lists_of(passages)},Flat", "compressed": f"IVF{lists_of(passages)},SQ8"}
    # What a search touches should stay in memory: the postings, and the index or the vectors.
    held = max(at["bm25: bytes on disk"], index or vectors)
    machines = math.ceil(held / room)
    # A part whose counting needs more memory than there is would not be finished.
    parts = max(machines, math.ceil(at[MEMORY] / room))
    cores = args.cores / MEASURED_CORES * machines
    build = at["corpus: seconds to build"] + at["bm25: seconds to build"]
    build += at.get(f"{kind}: seconds to build", 0.0) * wide
    mine = at["bm25: seconds to mine"] + at[f"{kind}: seconds to mine"] * wide
    return (
        f"{passages:,.0f}",
        names[kind],
        size_of(at["corpus: bytes on disk"] + at["bm25: bytes on disk"] + vectors + index),
        size_of(held),
        f"{machines}",
        f"{parts}",
        hours(passages / args.encode / machines),
        hours(build / cores),
        hours(mine * args.queries / QUERIES / cores),
    )


def size_of(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number < 1e10 else f"{number / 1e9:,.0f} GB"


def hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.0f} h"


def compared(model: Model, run: dict[str, Any]) -> str:
    """Show what is predicted for a size beside what was measured there."""
    predicted, found = model.predict(run["size"]), measured(run)
    ratios = {what: predicted[what] / value for what, value in found.items()}
    wrong = [what for what, ratio in ratios.items() if not 1 / RIGHT <= ratio <= RIGHT]
    units = {what: 1e6 if "bytes" in what else 1 for what in found}
    rows = [
        (
            what.replace("bytes", "MB"),
            f"{predicted[what] / units[what]:,.1f}",
            f"{value / units[what]:,.1f}",
            f"{ratios[what]:.2f}",
        )
        for what, value in found.items()
    ]
    return (
        f"\n## Prediction against measurement, {run['size']:,} passages\n\n"
        f"{'All' if not wrong else 'All but ' + ', '.join(wrong)} within a factor of {RIGHT}.\n\n"
        + table("What|Predicted|Measured|Ratio", rows)
    )


def main() -> None:
    """Parse the options, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=RESULTS / "scale.json", help="what scale.py wrote")
    parser.add_argument("--passages", type=float, nargs="+", default=[1e5, 1e7, 1e9], help="sizes to plan for")
    parser.add_argument("--queries", type=float, default=1e6, help="queries to mine for (default: a million)")
    parser.add_argument("--dimension", type=int, default=384, help="of the vectors (default: 384)")
    parser.add_argument("--exact", type=float, default=1e6, help="exact search up to so many passages (default: 1e6)")
    parser.add_argument("--cores", type=int, default=16, help="of a machine (default: 16)")
    parser.add_argument("--memory", type=float, default=64, help="GiB of a machine, four fifths of which are used")
    parser.add_argument("--encode", type=float, help="passages a second and machine (default: as measured, by cores)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where placement.md goes")
    args = parser.parse_args()
    sections = json.loads(args.measured.read_text())
    runs = sorted(sections["scale"]["found"], key=lambda run: run["size"])
    if len(runs) < 3:
        parser.error(f"{args.measured} has {len(runs)} sizes, and three are needed: two to learn from, one to check.")
    if args.encode is None:
        args.encode = sections["encode"]["found"]["per_second"] * args.cores / MEASURED_CORES
    model, on = Model(*runs[:2]), sections["scale"]["machine"]
    text = (
        f"# Placement\n\n{args.queries:,.0f} queries, vectors of {args.dimension} dimensions, machines of "
        f"{args.cores} cores and {args.memory:g} GiB, {args.encode:,.0f} passages encoded a second and machine. "
        f"Passages of 50 words.\n\n"
        + table(
            "Passages|Dense index|Disk|Held in memory|Machines|Parts of BM25|Encode|Build indexes|Mine, both",
            [plan(model, passages, args) for passages in args.passages],
        )
        + f"\nLearned from {runs[0]['size']:,} and {runs[1]['size']:,} passages; {on['cpu']}, {on['cores']} cores.\n"
        + "".join(compared(model, run) for run in runs[2:])
    )
    (args.output / "placement.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
