"""Compute what mining from larger corpora needs, from the constants that scale.py has measured.

    python benchmarks/placement.py                                   # from benchmarks/results/scale.json
    python benchmarks/placement.py --passages 1e8 --dimension 768 --cores 64 --memory 256 --encode 2000

What grows with the corpus is taken from the two smallest measured sizes. Bytes, building and searching grow with the
passages; training and filling an IVF index with passages times lists, where the lists are four times the root of the
passages. The largest measured size is predicted too, and compared with what was measured there.

Assumed, not measured: that more cores search as many times as fast; that vectors of more dimensions take proportionally
longer to train, search and store; and `--encode`, unless it is left at what MiniLM does here. Disk is that of vectors
in float16 and of what is built on them. Writes placement.md to `--output`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from _common import RESULTS, table

QUERIES, MEASURED_DIMENSION, MEASURED_CORES = 10_000, 64, 2
#: Of IVF, as scale.py builds it: vectors to train on for each list and at least, and how often they are gone over.
PER_LIST, LEAST, ROUNDS = 64, 50_000, 10
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


class Model:
    """The constants of one machine, from two measured sizes."""

    def __init__(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        sizes = one["size"], other["size"]

        def line(value: Any, scale: Any = float) -> Line:
            return Line.through((scale(sizes[0]), value(one)), (scale(sizes[1]), value(other)))

        self.build = {
            what: line(lambda run, what=what: run["made"][what]["seconds"]) for what in ("corpus", "bm25")
        } | {"ivf": line(lambda run: run["made"]["ivf"]["seconds"], comparisons)}
        # The share of the vocabulary falls as a corpus grows, so the larger one tells.
        self.bytes = {what: other["made"][what]["bytes"] / sizes[1] for what in ("corpus", "bm25", "embed", "ivf")}
        self.mine = {source: line(lambda run, s=source: median(run["mined"][s]["map"])) for source in ("bm25", "dense")}
        self.anonymous = max(run["anonymous"] for source in other["mined"].values() for run in source["map"])

    def predict(self, passages: float) -> dict[str, float]:
        """Predict everything that scale.py measures at a size."""
        found = {f"{what}: seconds to build": line.at(passages) for what, line in self.build.items() if what != "ivf"}
        found["ivf: seconds to build"] = self.build["ivf"].at(comparisons(passages))
        found |= {f"{what}: bytes on disk": size * passages for what, size in self.bytes.items()}
        found |= {f"{source}: seconds to mine": line.at(passages) for source, line in self.mine.items()}
        return found


def median(runs: list[dict[str, Any]]) -> float:
    seconds = sorted(run["seconds"] for run in runs)
    return seconds[len(seconds) // 2]


def measured(run: dict[str, Any]) -> dict[str, float]:
    """Return what was measured, named as `Model.predict` does."""
    made, mined = run["made"], run["mined"]
    found = {f"{what}: seconds to build": made[what]["seconds"] for what in ("corpus", "bm25", "ivf")}
    found |= {f"{what}: bytes on disk": made[what]["bytes"] for what in ("corpus", "bm25", "embed", "ivf")}
    return found | {f"{source}: seconds to mine": median(mined[source]["map"]) for source in ("bm25", "dense")}


def plan(model: Model, passages: float, args: argparse.Namespace) -> tuple[str, ...]:
    """Say what a corpus of a size needs."""
    wide, cores = args.dimension / MEASURED_DIMENSION, args.cores / MEASURED_CORES
    approximate = passages > args.exact
    vectors = 2 * args.dimension * passages
    index = (4 * args.dimension + 8) * passages if approximate else 0.0
    bm25 = model.bytes["bm25"] * passages
    disk = model.bytes["corpus"] * passages + bm25 + vectors + index
    # What a search touches should stay in memory: the postings, and the index or the vectors.
    held = max(bm25, index or vectors)
    machines = max(1, math.ceil(held / (args.memory * 2**30 * 0.8)))
    encode = passages / args.encode / machines
    build = model.build["corpus"].at(passages) + model.build["bm25"].at(passages)
    ivf = model.build["ivf"].at(comparisons(passages)) * wide if approximate else 0.0
    mine = model.mine["dense"].at(passages) * wide + model.mine["bm25"].at(passages)
    share = args.queries / QUERIES / cores / machines
    return (
        f"{passages:,.0f}",
        "exact" if not approximate else f"IVF{lists_of(passages)}",
        f"{disk / 1e9:,.0f} GB",
        f"{held / 1e9:,.1f} GB",
        f"{machines}" if machines == 1 else f"{machines}, as many parts",
        hours(encode),
        hours(build / cores / machines + ivf / cores / machines),
        hours(mine * share),
    )


def hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.0f} h"


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
    model, largest = Model(*runs[:2]), runs[-1]
    predicted, found = model.predict(largest["size"]), measured(largest)
    checks = [
        (what, f"{predicted[what]:,.1f}", f"{value:,.1f}", f"{predicted[what] / value:.2f}")
        for what, value in found.items()
    ]
    wrong = [what for what, value in found.items() if not 1 / RIGHT <= predicted[what] / value <= RIGHT]
    on = sections["scale"]["machine"]
    text = (
        f"# Placement\n\n{args.queries:,.0f} queries, vectors of {args.dimension} dimensions in float16, machines of "
        f"{args.cores} cores and {args.memory:g} GiB, {args.encode:,.0f} passages encoded a second and machine. "
        f"Passages of 50 words.\n\n"
        + table(
            "Passages|Dense index|Disk|To be held in memory|Machines|Encode|Build both indexes|Mine, both sources",
            [plan(model, passages, args) for passages in args.passages],
        )
        + f"\n## Prediction against measurement, {largest['size']:,} passages\n\n"
        f"Learned from {runs[0]['size']:,} and {runs[1]['size']:,} passages; {on['cpu']}, {on['cores']} cores. "
        f"{'All' if not wrong else f'All but {wrong}'} within a factor of {RIGHT}.\n\n"
        + table("What|Predicted|Measured|Ratio", checks)
    )
    (args.output / "placement.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
