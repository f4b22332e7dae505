"""Loops compile wherever the package runs, and compiled code is kept only where no other user can write."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import numpy as np
import pytest

import hnm_datasets
from hnm_datasets.arrays import compiled as module
from hnm_datasets.arrays.compiled import compiled

NOBODY = 65534
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
LOOK_UP = """
import pyarrow as pa
from hnm_datasets.storage.tables import IdTable
print(IdTable.of(pa.array(["a", "b"], pa.large_string())).find(pa.array(["b", "c"])).tolist())
"""
MINE = """
from hnm_datasets import RandomNegatives, load_sample
corpus, rows = load_sample("earthquakes")
print(rows.map(RandomNegatives(corpus, k=1), batched=True)[0]["negative_ids"])
"""


def double(numbers):
    return numbers * 2


@pytest.fixture
def without_locators(monkeypatch):
    """No folder of numba's own can be written."""
    kept = [one for one in numba.core.caching.CacheImpl._locator_classes if "UserProvided" in one.__name__]
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", kept)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    module._private_folder.cache_clear()
    yield
    module._private_folder.cache_clear()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# ---- a container without a home --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read_only_package():
    """A copy of the package that an unprivileged user can read."""
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(
        Path(hnm_datasets.__file__).parent, folder / "hnm_datasets", ignore=shutil.ignore_patterns("__pycache__")
    )
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def run_as_nobody(package, script, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_", "HF_"))}
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if AS_ROOT else []
    return subprocess.run(
        [*prefix, sys.executable, "-c", script],
        env=kept | {"HOME": "/nonexistent", "PYTHONPATH": str(package)} | environment,
        cwd="/",
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="users and permissions of POSIX")
def test_a_user_without_a_home_and_with_a_read_only_package(read_only_package):
    try:
        run_as_nobody(read_only_package, "import pyarrow").check_returncode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("an unprivileged user cannot run this Python")
    temporary = Path(tempfile.mkdtemp())
    try:
        temporary.chmod(0o1777)
        # A user without a home has to tell `datasets` where to keep its files.
        run = run_as_nobody(read_only_package, MINE, TMPDIR=str(temporary), HF_HOME=str(temporary / "hf"))
        assert run.stdout.startswith("['"), run.stderr
        assert run.stderr.count("Compiling the loops of hnm_datasets.") == 1
        assert run.stderr.count("This takes some seconds, once per part on this machine: the compiled code is") == 1
        (folder,) = temporary.glob("hnm_datasets-compiled-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(folder.rglob("*.nbc"))
        runs = [run_as_nobody(read_only_package, LOOK_UP, TMPDIR=str(temporary)) for _ in range(2)]
        assert (runs[1].stdout, runs[1].stderr) == ("[1, -1]\n", "")
        # Nowhere at all: compiled by each process.
        shutil.rmtree(folder)
        temporary.chmod(0o777)
        run = run_as_nobody(read_only_package, LOOK_UP, TMPDIR=str(temporary))
        assert run.stdout == "[1, -1]\n", run.stderr
        assert run.stderr.count("NUMBA_CACHE_DIR") == 1 or not AS_ROOT
    finally:
        shutil.rmtree(temporary)


# ---- where compiled code is kept -------------------------------------------------------------------------------------


def test_the_code_is_kept_in_a_folder_of_this_user(without_locators, temporary):
    assert compiled(double)(np.arange(3)).tolist() == [0, 2, 4]
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.suffix for path in folder.rglob("*double*")) == [".nbc", ".nbi"]
    # Numba's own setting is as before, for the functions of others.
    assert numba.config.CACHE_DIR == ""


def make_open(parent):
    (parent / f"hnm_datasets-compiled-{os.geteuid()}").mkdir()
    (parent / f"hnm_datasets-compiled-{os.geteuid()}").chmod(0o777)


def make_link(parent):
    (parent / "elsewhere").mkdir(mode=0o700)
    (parent / f"hnm_datasets-compiled-{os.geteuid()}").symlink_to(parent / "elsewhere")


def make_file(parent):
    (parent / f"hnm_datasets-compiled-{os.geteuid()}").write_text("")


def open_parent(parent):
    parent.chmod(0o777)


def give_away(parent):
    if not AS_ROOT:
        pytest.skip("only root can give folders away")
    (parent / f"hnm_datasets-compiled-{os.geteuid()}").mkdir(mode=0o700)
    os.chown(parent / f"hnm_datasets-compiled-{os.geteuid()}", NOBODY, NOBODY)


@pytest.mark.parametrize("prepare", [make_open, make_link, make_file, open_parent, give_away])
def test_a_folder_that_others_can_fill_is_not_used(without_locators, temporary, prepare):
    prepare(temporary)
    assert module._private_folder() is None
    assert compiled(double)(np.arange(3)).tolist() == [0, 2, 4]
    assert not list(temporary.rglob("*.nb?"))


def test_a_full_disk_does_not_stop_a_loop(monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", fail)
    assert compiled(double)(np.arange(3)).tolist() == [0, 2, 4]
