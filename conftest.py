import datasets
import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep the tests' corpora, indexes and mapped datasets out of the user's cache, and the output free of bars."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache")
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    patch.setenv("HF_DATASETS_CACHE", str(folder))
    datasets.disable_progress_bars()
    yield
    patch.undo()
