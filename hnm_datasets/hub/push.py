"""The push of a mined set to the Hub: one commit, so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import shlex
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hnm_datasets.hub.card import CARD
from hnm_datasets.hub.record import RECORD, Options
from hnm_datasets.hub.saving import save
from hnm_datasets.hub.shards import CORPUS, DATA
from hnm_datasets.hub.tokens import hide_tokens, known_tokens
from hnm_datasets.rows import Rows
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.terminal import printable


def push_mined(
    dataset: Rows,
    repo_id: str,
    *,
    folder: str | Path | None = None,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    **options: Any,
) -> str:
    """Publish mined rows on the Hub, with a card that says how they were mined: `save_mined`, then one commit.

    Shards of an earlier push that are no longer needed are removed in the same commit. Another endpoint than
    huggingface.co is named by the environment variable `HF_ENDPOINT`.

    Args:
        dataset: The rows, in any format that `audit_negatives` knows. A `Dataset` becomes the split `train`.
        repo_id: `"name/dataset"`; it is made if it is not there.
        folder: Where the set is written first; None: in the cache directory, under `hnm_datasets/pushes`.
        token: A token that may write; None: the one of `hf auth login` or of the environment variable `HF_TOKEN`.
        private: Whether a new repository is private; None: as the account's settings say.
        revision: The branch to commit to; it is made if it is not there. None: the main one.
        commit_message: The commit's message.
        **options: The options of `save_mined`: `steps`, `corpus`, `audit`, `judgments`, `license`, `language`,
            `name`, `source`, `include_corpus`.

    Returns:
        The URL of the set.

    Raises:
        ConnectionError: The Hub could not be reached. In this and the next two cases the folder is complete, and the
            message says how to go on.
        PermissionError: The token is missing, wrong, or may not write there.
        RuntimeError: The Hub refused or failed otherwise.
        FileExistsError: The repository holds another set, or the folder something else.
        ValueError: `repo_id` is no id, a split has no rows, or `steps` contradicts the rows.
        TypeError: An option is unknown or something else.
        KeyError: The columns are in no known format.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_dict({"anchor": ["what?"], "positive": ["this"], "negative": ["that"]})
        >>> push_mined(rows, "what-negatives")
        Traceback (most recent call last):
        ValueError: push_mined: repo_id must be 'name/dataset', with a user or organization as name: 'what-negatives'.
    """
    _check_repo_id(repo_id)
    known = [field.name for field in fields(Options)]
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"push_mined: unknown options {unknown}; save_mined knows {known}.")
    secrets = known_tokens(token)
    target = cache_root() / "pushes" / repo_id if folder is None else Path(folder)
    saved = save("push_mined", dataset, target, Options(**options), repo_id=repo_id, secrets=secrets)
    api = HfApi(token=token)
    command = ["hf", "upload", repo_id, str(saved), ".", "--repo-type", "dataset"]
    command += ["--delete", f"{DATA}/*", "--delete", f"{CORPUS}/*"]
    command += ["--revision", revision] if revision else []
    command += ["--private"] if private else []
    with _explained(saved, shlex.join(command), secrets):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        if revision and not revision.startswith("refs/"):
            api.create_branch(repo_id, repo_type="dataset", branch=revision, exist_ok=True)
        there = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
    if RECORD not in there and set(there) - {CARD, ".gitattributes"}:
        raise FileExistsError(
            f"push_mined: {repo_id} holds a set that was not pushed from here ({_some_names(there)}). Choose another "
            f"repo_id, or remove its files. What was to be pushed is complete in {saved}."
        )
    with _explained(saved, shlex.join(command), secrets):
        # Not `upload_folder`: it splits a large folder into several commits, and in between the set would be neither
        # the old nor the new one.
        paths = sorted(path for path in saved.rglob("*") if path.is_file())
        ours = {path.relative_to(saved).as_posix(): path for path in paths}
        stale = [name for name in there if name.startswith((f"{DATA}/", f"{CORPUS}/")) and name not in ours]
        api.create_commit(
            repo_id,
            [
                *(CommitOperationDelete(name) for name in stale),
                *(CommitOperationAdd(name, path) for name, path in ours.items()),
            ],
            repo_type="dataset",
            revision=revision,
            commit_message=commit_message or "Publish mined negatives",
        )
    return f"{api.endpoint}/datasets/{repo_id}"


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"push_mined: repo_id must be 'name/dataset'. {error}") from None
    if "/" not in (repo_id or ""):
        raise ValueError(
            f"push_mined: repo_id must be 'name/dataset', with a user or organization as name: {repo_id!r}."
        )


def _some_names(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")


@contextlib.contextmanager
def _explained(folder: Path, command: str, secrets: Sequence[str]) -> Iterator[None]:
    """Say of any failure what happened, that the folder is complete, and how to go on."""
    try:
        yield
    # huggingface_hub has changed its HTTP library more than once, and errors of the network have no class of its own.
    except Exception as error:
        failure = _failure(error, folder, command, secrets)
        shown = "".join(traceback.format_exception(error))
        # A server may send back what it was sent; then its answer must not be printed as the cause either.
        raise failure from (error if hide_tokens(shown, secrets) == shown else None)


def _failure(error: Exception, folder: Path, command: str, secrets: Sequence[str]) -> Exception:
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind: type[Exception]
    if status in (401, 403):
        kind = PermissionError
        what = (
            f"the Hub refused the token (status {status}). Log in with `hf auth login` or pass token=, with a token "
            f"that may write there"
        )
    elif status is not None:
        kind, what = RuntimeError, f"the Hub answered with status {status}"
    elif isinstance(error, (ValueError, TypeError)):
        kind, what = RuntimeError, "the set was refused"
    else:
        kind, what = ConnectionError, "the Hub could not be reached"
    said = printable(" ".join(hide_tokens(str(error), secrets).split()))[:500]
    return kind(
        f"push_mined: {what}: {said or type(error).__name__}. The set is complete in {folder}, and nothing is lost. "
        f"Go on with: {command} (or call push_mined again)."
    )
