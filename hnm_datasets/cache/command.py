"""The command `python -m hnm_datasets cache`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hnm_datasets.cache.folders import UNFINISHED
from hnm_datasets.cache.listing import cached, size_in_words
from hnm_datasets.markdown import count
from hnm_datasets.storage.about import KINDS

ABOUT = "list the cache, or delete parts of it"
_DELETE = "show the folders that the options choose, ask, and delete them"


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    _add_choice(command)
    deletion = command.add_subparsers(dest="action", metavar="delete").add_parser(
        "delete", help=_DELETE, description=_DELETE
    )
    _add_choice(deletion)
    deletion.add_argument("--all", action="store_true", help="delete everything that is listed")
    deletion.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    deletion.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _add_choice(command: argparse.ArgumentParser) -> None:
    # Options that stand before `delete` must not be undone by the defaults of those after it.
    unset = argparse.SUPPRESS
    command.add_argument("--kind", default=unset, help=f"of this kind alone: {', '.join((*KINDS, UNFINISHED))}")
    command.add_argument("--name", default=unset, help="of this model, corpus, fingerprint or folder alone")
    command.add_argument("--older-than", default=unset, metavar="AGE", help="not used for this long: 12h, 30d or 2w")
    command.add_argument(
        "--cache-folder", default=unset, type=Path, help="another cache (default: of HF_DATASETS_CACHE)"
    )


def run_cache(options: argparse.Namespace) -> int:
    """List the cache, or delete what the options choose; return the exit status."""
    chosen = {name: getattr(options, name, None) for name in ("kind", "name", "older_than")}
    deletes = options.action == "delete"
    if deletes and not options.all and not any(chosen.values()):
        raise ValueError("cache delete: name what to delete by --kind, --name or --older-than, or pass --all.")
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
        raise ValueError("cache delete: there is nobody to answer. Pass --yes to delete without a question.") from None
