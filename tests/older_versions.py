"""Marks for tests of what works only with newer versions of a dependency; docs/versions.md lists them for users."""

from importlib.metadata import version

import pytest
from packaging.version import Version


def needs(package, lowest, reason):
    """Skip a test where an older version of a package is installed."""
    return pytest.mark.skipif(Version(version(package)) < Version(lowest), reason=f"{package} < {lowest}: {reason}")
