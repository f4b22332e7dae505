"""The wheel and the source archive hold what they should, and nothing else."""

import email
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import hnm_datasets as hnm

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist_names(tmp_path_factory):
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("sdist")), versions=["standard"])
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def package_files():
    files = (path for path in (ROOT / "hnm_datasets").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    about = {name for name in wheel.namelist() if name.startswith(f"hnm_datasets-{hnm.__version__}.dist-info/")}
    assert set(wheel.namelist()) - about == package_files()
    assert {
        "hnm_datasets/py.typed",
        "hnm_datasets/__init__.pyi",
        "hnm_datasets/sample/LICENSE",
        "hnm_datasets/sample/medquad/corpus.parquet",
    } <= set(wheel.namelist())
    assert {name.partition("/licenses/")[2] for name in about} >= {"LICENSE", "hnm_datasets/sample/LICENSE"}


def test_the_metadata(wheel):
    metadata = email.message_from_bytes(wheel.read(f"hnm_datasets-{hnm.__version__}.dist-info/METADATA"))
    assert metadata["Name"] == "hnm-datasets"
    assert metadata["Version"] == hnm.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Project-URL") == ["Homepage, https://pypi.org/project/hnm-datasets/"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra")) == set(extras)


def test_the_source_archive_holds_what_builds_the_wheel(sdist_names):
    assert package_files() <= sdist_names
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO"} <= sdist_names
    assert not [name for name in sdist_names if re.match(r"(tests|benchmarks|recipes|docs|mined|build)/", name)]


def test_the_changelog_dates_each_release():
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [head for head in heads if head != "Unreleased"]
    for head in released:
        assert re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", head)
    # The version of the package is that of the last release, or of the next one.
    assert heads[0] == "Unreleased" or heads[0].startswith(f"{hnm.__version__} - ")
