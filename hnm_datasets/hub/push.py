"""Push a mined dataset to the Hub in one commit, so that the repository never holds half of it."""

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
from hnm_datasets.runtime.interrupts import interruptible
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
    """Publish mined rows on the Hub with a dataset card: write a folder as `save_mined` does, then push one commit.

    The same commit removes shards of an earlier push that are no longer needed. Set the environment variable
    `HF_ENDPOINT` to push to an endpoint other than huggingface.co.

    Args:
        dataset: The rows, in any format that `audit_negatives` accepts. A `Dataset` becomes the split `train`.
        repo_id: `"name/dataset"`. The repository is created if it does not exist.
        folder: The folder to write first; None: a folder in the cache directory, under `hnm_datasets/pushes`.
        token: A token with write access; None: the token of `hf auth login` or of the environment variable `HF_TOKEN`.
        private: Whether a new repository is private; None: the default of the account.
        revision: The branch to commit to, which is created if it does not exist; None: the main branch.
        commit_message: The commit message; None: "Publish mined negatives".
        **options: The options of `save_mined`: `steps`, `corpus`, `audit`, `judgments`, `license`, `language`,
            `name`, `source`, `include_corpus`.

    Returns:
        The URL of the dataset.

    Raises:
        ConnectionError: The Hub could not be reached. In this and the next two cases, the folder is complete and the
            message says how to resume.
        PermissionError: The token is missing, invalid, or has no write access.
        RuntimeError: The Hub rejected the dataset or failed otherwise.
        FileExistsError: The repository or the folder contains other files.
        ValueError: `repo_id` is invalid, a split has no rows, or `steps` contradicts the rows.
        TypeError: An option is unknown or has the wrong type.
        KeyError: The columns match no known format.

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
            f"push_mined: {repo_id} contains files that push_mined did not write ({_some_names(there)}). Choose "
            f"another repo_id, or remove its files. The dataset to push is complete in {saved}."
        )
    with _explained(saved, shlex.join(command), secrets):
        # Not `upload_folder`: it splits a large folder into several commits, and between them the repository would mix
        # old and new files.
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
    """Replace any error by one that says what failed, that the folder is complete, and how to resume."""
    try:
        with interruptible(
            lambda: f"push_mined was interrupted. The set is complete in {folder}. Go on with: {command}"
        ):
            yield
    # huggingface_hub has changed its HTTP library more than once, and has no class of its own for network errors.
    except Exception as error:
        failure = _failure(error, folder, command, secrets)
        shown = "".join(traceback.format_exception(error))
        # If the server's response repeats a token, the original error must not be printed as the cause.
        raise failure from (error if hide_tokens(shown, secrets) == shown else None)


def _failure(error: Exception, folder: Path, command: str, secrets: Sequence[str]) -> Exception:
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind: type[Exception]
    if status in (401, 403):
        kind = PermissionError
        what = (
            f"the Hub refused the token (status {status}). Log in with `hf auth login` or pass token=, with a token "
            f"that has write access"
        )
    elif status is not None:
        kind, what = RuntimeError, f"the Hub responded with status {status}"
    elif isinstance(error, (ValueError, TypeError)):
        kind, what = RuntimeError, "the dataset was rejected"
    else:
        kind, what = ConnectionError, "the Hub could not be reached"
    said = printable(" ".join(hide_tokens(str(error), secrets).split()))[:500]
    return kind(
        f"push_mined: {what}: {said or type(error).__name__}. The dataset is complete in {folder}. "
        f"To resume, run: {command} (or call push_mined again)."
    )
