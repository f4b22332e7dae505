"""Audit mined data, write its dataset card, compare mining strategies on a dataset, or list and clean the cache.

python -m hnm_datasets audit FOLDER     # report defects and hardness
python -m hnm_datasets card FOLDER      # write the dataset card, README.md
python -m hnm_datasets pilot FOLDER     # mine a sample with each strategy and train a small student on each
python -m hnm_datasets cache            # list the cache; `cache delete` deletes parts of it
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetsError

from hnm_datasets.audit.run import audit_negatives
from hnm_datasets.cache import command as cache_command
from hnm_datasets.columns import POSITIVE_IDS
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.hub.record import RECORD
from hnm_datasets.hub.saving import write_card
from hnm_datasets.loaders.beir import load_beir
from hnm_datasets.loaders.configurations import configurations_of
from hnm_datasets.pictures.installed import check_matplotlib
from hnm_datasets.pictures.pilot import plot_pilot
from hnm_datasets.runtime.interrupts import INTERRUPTED
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.terminal import printable

_PILOT = "compare mining strategies: mine a sample with each strategy and train a small student on each"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Errors are printed in one line, without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m hnm_datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("audit", "print the audit of each split"), ("card", "write the dataset card, README.md")):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("folder", help="a folder written by save_mined, or any folder that load_dataset reads")
    _add_pilot(commands.add_parser("pilot", help=_PILOT, description=_PILOT))
    cache_command.add_options(commands.add_parser("cache", help=cache_command.ABOUT, description=cache_command.ABOUT))
    options = parser.parse_args(arguments)
    try:
        if options.command == "audit":
            audit(options.folder)
        elif options.command == "pilot":
            run_pilot(options)
        elif options.command == "cache":
            return cache_command.run_cache(options)
        else:
            print(printable(f"written: {write_card(options.folder)}"))  # noqa: T201
    except (OSError, ImportError, KeyError, TypeError, ValueError, DatasetsError) as error:
        # Use the first argument of a KeyError, because its string form is quoted.
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        print(f"error: {printable(text)}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt as error:
        print(f"\n{printable(str(error)) or f'{options.command} was interrupted.'}", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    return 0


def audit(folder: str) -> None:
    """Print the audit of each split, with the corpus if the folder has one."""
    configs = configurations_of("audit", folder)
    corpus = Corpus.from_dataset(load_dataset(folder, "corpus", split="train")) if "corpus" in configs else None
    splits: DatasetDict = load_dataset(folder, "default" if "default" in configs else None)
    for split, rows in splits.items():
        print(f"{printable(split)}: {audit_negatives(rows, corpus)}")  # noqa: T201


def _add_pilot(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder", help="a folder in BEIR format, a Hub id, or a folder written by save_mined with a corpus"
    )
    command.add_argument("--split", default="train", help="the split of the queries (default: train)")
    command.add_argument("--model", help="the path or Hub id of a SentenceTransformer for mining")
    command.add_argument("--teacher", help="the path or Hub id of a CrossEncoder that detects false negatives")
    command.add_argument("--sample", type=int, default=500, help="queries to mine for and train on (default: 500)")
    command.add_argument("--steps", type=int, default=100, help="training steps per run (default: 100)")
    command.add_argument("--seeds", type=int, default=3, help="training runs per strategy (default: 3)")
    command.add_argument("--output", type=Path, help="a folder for pilot.md, pilot.json and pilot.png")


def run_pilot(options: argparse.Namespace) -> None:
    """Run a pilot with the usual strategies, print its report, and write it to the output folder, if given."""
    from hnm_datasets.piloting.run import pilot
    from hnm_datasets.transforms.scorers.cross_encoder import CrossEncoderScores

    # Warn first, because a pilot takes minutes.
    draws = options.output is not None and _can_draw()
    corpus, rows = read_queries(options.folder, options.split)
    teacher = None if options.teacher is None else CrossEncoderScores(corpus, options.teacher)
    found = pilot(
        rows, corpus, model=options.model, teacher=teacher, sample=options.sample, steps=options.steps,
        seeds=options.seeds,
    )  # fmt: skip
    print(found)  # noqa: T201
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        with written_aside(options.output / "pilot.json") as aside:
            aside.write_text(json.dumps(found.to_dict(), indent=1))
        with written_aside(options.output / "pilot.md") as aside:
            aside.write_text(found.to_markdown() + "\n")
        if draws:
            with written_aside(options.output / "pilot.png") as aside:
                plot_pilot(found).savefig(aside, format="png")


def _can_draw() -> bool:
    """Return whether matplotlib is installed; print a warning with the install command if it is not."""
    try:
        check_matplotlib("pilot.png")
    except ImportError as error:
        print(f"warning: the picture is skipped: {error}", file=sys.stderr)  # noqa: T201
        return False
    return True


def read_queries(folder: str, split: str) -> tuple[Corpus, Dataset]:
    """Read a corpus and queries with positives, from a retrieval dataset or a folder written by `save_mined`."""
    if not (Path(folder) / RECORD).is_file():
        return load_beir(folder, split)
    if "corpus" not in configurations_of("pilot", folder):
        raise ValueError(f"{folder} has mined rows but no corpus. Save them again with save_mined(corpus=...).")
    rows = load_dataset(folder, "default", split=split)
    if POSITIVE_IDS not in rows.column_names:
        raise ValueError(
            f"{folder} has the columns {rows.column_names}; a pilot needs rows with 'query' and 'positive_ids'."
        )
    return Corpus.from_dataset(load_dataset(folder, "corpus", split="train")), rows


if __name__ == "__main__":
    sys.exit(main())
