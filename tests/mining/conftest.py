import pytest
from mining_helpers import make_corpus


@pytest.fixture(scope="session")
def corpus():
    return make_corpus()
