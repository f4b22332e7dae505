"""constraints-lowest.txt has the lower bounds of pyproject.toml, and constraints.txt fits them."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
#: Installed before all others, so in neither file.
TORCH = "torch"
REQUIREMENTS = [one for one in (Requirement(text) for group in GROUPS for text in group) if one.name != TORCH]


def pins(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(package): version for package, _, version in (line.partition("==") for line in lines)}


LOWEST, NEWEST = pins("constraints-lowest.txt"), pins("constraints.txt")


def wrong_pins(requirements, lowest):
    """Return the packages that a file of lowest versions has at another version than their lower bound."""
    bounds = {canonicalize_name(one.name): Version(bound.version) for one in requirements for bound in one.specifier}
    return {
        name: lowest.get(name) for name, bound in bounds.items() if name not in lowest or Version(lowest[name]) != bound
    }


def test_the_lowest_versions_are_the_bounds():
    found = wrong_pins(REQUIREMENTS, LOWEST)
    assert not found, (
        f"constraints-lowest.txt has {found}. If a bound in pyproject.toml changed, run `make lock-lowest`. If a bound "
        f"cannot be installed beside the others, raise it to the version in the file."
    )


def test_one_package_has_one_bound():
    bounds = {}
    for one in REQUIREMENTS:
        bounds.setdefault(canonicalize_name(one.name), set()).add(str(one.specifier))
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {}


@pytest.mark.parametrize("pinned", [{}, {"numpy": "2.1.1"}, {"numpy": "1.26.4"}])
def test_another_version_than_the_bound_is_found(pinned):
    assert wrong_pins([Requirement("numpy>=2.1")], pinned) == {"numpy": pinned.get("numpy")}


def test_an_equal_version_is_the_bound():
    assert not wrong_pins([Requirement("numpy>=2.1"), Requirement("ray[data]>=2")], {"numpy": "2.1.0", "ray": "2.0.0"})


def test_the_newest_versions_are_allowed():
    assert [str(one) for one in REQUIREMENTS if NEWEST[canonicalize_name(one.name)] not in one.specifier] == []


@pytest.mark.parametrize("found", [LOWEST, NEWEST], ids=["lowest", "newest"])
def test_torch_and_what_its_gpu_builds_need_are_in_no_file(found):
    assert not [name for name in found if name == TORCH or name.startswith(("nvidia-", "cuda-", "triton"))]


def test_the_page_of_versions_has_those_of_the_files():
    page = (ROOT / "docs" / "versions.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    torch = re.search(r"^TORCH \?= torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    extras = [group for name, group in PROJECT["optional-dependencies"].items() if name not in ("dev", "offline")]
    names = {Requirement(text).name for group in (PROJECT["dependencies"], *extras) for text in group}
    files = {name: [pinned[canonicalize_name(name)] for pinned in (LOWEST, NEWEST)] for name in names - {TORCH}}
    assert {name: versions for name, *versions in rows[2:]} == files | {TORCH: [torch, torch]}
