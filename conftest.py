import datasets
import hypothesis
import pytest

# The first example of a test compiles the loops, which takes longer than any deadline.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")


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
