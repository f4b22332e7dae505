"""Look at a folder of mined data, or write its card.

python -m hnm_datasets audit FOLDER     # what is wrong with it, how hard it is
python -m hnm_datasets card FOLDER      # write README.md, the dataset card
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from datasets import DatasetDict, get_dataset_config_names, load_dataset
from datasets.exceptions import DatasetsError

from hnm_datasets.audit.run import audit_negatives
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.hub.saving import write_card
from hnm_datasets.terminal import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error is told in a line, not by a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m hnm_datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("audit", "print the audit of each split"), ("card", "write the dataset card, README.md")):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("folder", help="a folder that save_mined wrote, or any that load_dataset reads")
    options = parser.parse_args(arguments)
    try:
        if options.command == "audit":
            audit(options.folder)
        else:
            print(printable(f"written: {write_card(options.folder)}"))  # noqa: T201
    except (OSError, KeyError, TypeError, ValueError, DatasetsError) as error:
        # The text of a KeyError is its first argument; as a string it would stand in quotes.
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        print(f"error: {printable(text)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def audit(folder: str) -> None:
    """Print the audit of each split, with the corpus if the folder has one."""
    configs = get_dataset_config_names(folder)
    corpus = Corpus.from_dataset(load_dataset(folder, "corpus", split="train")) if "corpus" in configs else None
    splits: DatasetDict = load_dataset(folder, "default" if "default" in configs else None)
    for split, rows in splits.items():
        print(f"{printable(split)}: {audit_negatives(rows, corpus)}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
