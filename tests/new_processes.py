"""New processes without the seconds of their imports: forks of one that has imported the slow modules, and no more."""

import gc
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["datasets", "numba", "scipy.sparse", "sentence_transformers", "torch"])


def start(script, *arguments, log, **environment):
    """Start what `python script arguments` runs, beside the environment of this process.

    Args:
        script: The path of a script.
        *arguments: Its arguments.
        log: The file that gets what the script prints and its errors.
        **environment: Further variables; of those that a module reads when it is imported, `HF_DATASETS_CACHE` alone.

    Returns:
        The process.
    """
    words = [str(word) for word in (script, *arguments)]
    process = FORKS.Process(target=_be, args=(words, os.environ | environment, log))
    process.start()
    return process


def run(script, *arguments, log, **environment):
    """Run a script to its end, which must be a good one, and return what it printed."""
    process = start(script, *arguments, log=log, **environment)
    process.join(timeout=200)
    process.kill()
    process.join()
    assert process.exitcode == 0, Path(log).read_text()
    return Path(log).read_text()


def _be(words, environment, log):
    import datasets

    # Every trainer collects garbage, which takes long among all that is imported.
    gc.freeze()
    # It is a program of its own, and no worker of a pool; its own workers start as they usually do.
    multiprocessing.process._parent_process = None
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(environment)
    datasets.config.HF_DATASETS_CACHE = Path(environment["HF_DATASETS_CACHE"])
    datasets.disable_progress_bars()
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")
