"""The command `python -m hnm_datasets cache`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hnm_datasets.cache.folders import UNFINISHED
from hnm_datasets.cache.listing import cached, size_in_words
from hnm_datasets.markdown import count
from hnm_datasets.storage.about import KINDS

ABOUT = "list the cache, or delete parts of it"
_DELETE = "show the selected folders, ask, and delete them"


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    _add_choice(command)
    deletion = command.add_subparsers(dest="action", metavar="delete").add_parser(
        "delete", help=_DELETE, description=_DELETE
    )
    _add_choice(deletion)
    deletion.add_argument("--all", action="store_true", help="delete all folders")
    deletion.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    deletion.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _add_choice(command: argparse.ArgumentParser) -> None:
    # Defaults of options after `delete` must not override options before it.
    unset = argparse.SUPPRESS
    command.add_argument("--kind", default=unset, help=f"only this kind: {', '.join((*KINDS, UNFINISHED))}")
    command.add_argument("--name", default=unset, help="only this model, corpus, fingerprint or folder")
    command.add_argument(
        "--older-than", default=unset, metavar="AGE", help="only folders not used for this time: 12h, 30d or 2w"
    )
    command.add_argument(
        "--cache-folder", default=unset, type=Path, help="another cache (default: of HF_DATASETS_CACHE)"
    )


def run_cache(options: argparse.Namespace) -> int:
    """List the cache or delete the selected folders. Return the exit status."""
    chosen = {name: getattr(options, name, None) for name in ("kind", "name", "older_than")}
    deletes = options.action == "delete"
    if deletes and not options.all and not any(chosen.values()):
        raise ValueError("cache delete: select folders with --kind, --name or --older-than, or pass --all.")
    found = cached(**chosen, cache_folder=getattr(options, "cache_folder", None))
    print(found)  # noqa: T201
    if not deletes or not found:
        return 0
    folders, size = count(len(found), "folder"), size_in_words(found.nbytes)
    if options.dry_run:
        print(f"\nWould delete {folders} and free {size}.")  # noqa: T201
        return 0
    if not options.yes and not _agrees(f"\nDelete {folders} and free {size}? [y/N] "):
        print("Nothing was deleted.")  # noqa: T201
        return 0
    deletion = found.delete()
    print(deletion)  # noqa: T201
    return 1 if deletion.left else 0


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        raise ValueError("cache delete: no answer can be read. Pass --yes to delete without a question.") from None
