"""Folders of a cache, made as the library makes them but in no time."""

import multiprocessing
import os
import time

from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root_at

FORK = multiprocessing.get_context("fork")
DAY = 86_400


def make(root, kind="bm25", which=0, *, size=1000, age=0, **facts):
    """Make a folder of a kind, last used some days ago."""
    with cache_root_at(root):
        folder = build_once(
            root / kind,
            fingerprint({"which": which}),
            lambda aside: (aside / "numbers").write_bytes(b"1" * size) and None,
            About(kind, "a test", facts=facts),
        )
    then = time.time() - age * DAY
    os.utime(folder / ".used", (then, then))
    if age:
        about = folder / "about.json"
        about.write_text(about.read_text().replace('"created": "2', '"created": "1'))
    return folder


def left_by_a_killed_build(root, kind="bm25", which=9):
    """Make what a killed build leaves."""
    folder = root / kind / f"{fingerprint({'which': which})}.a1b2c3d4.tmp"
    folder.mkdir(parents=True)
    (folder / "numbers").write_bytes(b"1" * 10)
    return folder


def paths(found):
    return {folder.path for folder in found}
