"""A folder is complete as long as it holds the bytes that were written, whatever the clock says."""

import json
import os
import shutil
import time

import pytest

from hnm_datasets.storage import manifest
from hnm_datasets.storage.manifest import (
    DamagedFolderError,
    check_complete,
    digest_file,
    fault,
    finish,
    is_complete,
    unfinish,
    write_stamp,
)

NAMES = ("letters", "numbers", "nothing")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "numbers").write_bytes(bytes(range(250)) * 40)
    (path / "letters").write_bytes(b"abc")
    (path / "nothing").write_bytes(b"")
    finish(path, NAMES)
    return path


def another_process():
    """Forget what this process has found right."""
    manifest._VERIFIED.clear()


@pytest.fixture
def hashed(monkeypatch):
    """The files that are hashed."""
    names = []

    def hash_and_note(path):
        names.append(path.name)
        return digest_file(path)

    monkeypatch.setattr(manifest, "digest_file", hash_and_note)
    return names


@pytest.fixture
def settled(folder):
    """A folder that was stamped a while after it was written."""
    time.sleep(0.12)
    another_process()
    assert is_complete(folder)
    another_process()
    return folder


def flip(path, place=7):
    with path.open("r+b") as file:
        file.seek(place % path.stat().st_size)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 16]))


# ---- damage ----------------------------------------------------------------------------------------------------------


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def shorten(path):
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path):
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("keep_times", [False, True], ids=["", "old times"])
@pytest.mark.parametrize("damage", [flip, zero, shorten, lengthen])
@pytest.mark.parametrize("name", ["numbers", "letters"])
def test_every_damage_of_a_file_is_noticed(settled, name, damage, keep_times):
    path = settled / name
    before = path.stat()
    damage(path)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert name in fault(settled)
    assert not is_complete(settled)
    with pytest.raises(DamagedFolderError, match=rf"The corpus x: the folder .*folder is damaged: '{name}' .*Make it"):
        check_complete(settled, "The corpus x", "Make it again.")


@pytest.mark.parametrize("damage", [flip, zero, shorten, lengthen])
def test_damage_right_after_writing_is_noticed(folder, damage):
    # Nothing waits here: the clock of the file system may not have ticked since.
    assert is_complete(folder)
    damage(folder / "letters")
    assert not is_complete(folder)


def test_a_file_that_is_gone_or_exchanged_is_noticed(settled):
    (settled / "numbers").unlink()
    assert "numbers" in fault(settled)
    (settled / "numbers").write_bytes(bytes(10_000))
    assert "numbers" in fault(settled)
    (settled / "numbers").write_bytes(bytes(range(250)) * 40)
    assert fault(settled) is None


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "null",
        "7",
        "{}",
        "",
        "{",
        "\x00" * 200,
        '{"letters": 3}',
        '{"files": []}',
        '{"files": {"letters": 3}}',
        '{"files": {"letters": [3, 7]}, "digest": ""}',
        '{"files": {"letters": [-3, "x"]}}',
        "[" * 100_000,
    ],
)
def test_a_manifest_that_holds_something_else(settled, content):
    (settled / "manifest.json").write_text(content)
    assert fault(settled).startswith("'manifest.json' ")
    with pytest.raises(DamagedFolderError, match="manifest"):
        check_complete(settled, "The corpus x", "Make it again.")


def test_every_byte_of_a_manifest_counts(settled):
    path = settled / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        flip(path, place)
        # A flipped letter of what only lays the file out changes nothing.
        assert fault(settled) is not None or json.loads(path.read_bytes()) == json.loads(whole)
        path.write_bytes(whole)
    assert fault(settled) is None


def test_a_manifest_that_names_files_elsewhere(settled):
    (settled.parent / "outside").write_bytes(b"abc")
    files = {"../outside": (3, digest_file(settled.parent / "outside"))}
    (settled / "manifest.json").write_text(json.dumps({"files": files, "digest": manifest.fingerprint(files)}))
    assert "outside the folder" in fault(settled)


@pytest.mark.parametrize("content", ["[]", "", "{", '{"states": 3}', '{"states": {"letters": [3]}}', "\x00\x01"])
def test_a_damaged_stamp_is_no_stamp(settled, hashed, content):
    (settled / ".verified.json").write_text(content)
    assert is_complete(settled)
    assert sorted(hashed) == sorted(NAMES)
    flip(settled / "numbers")
    assert not is_complete(settled)


def test_a_stamp_with_a_flipped_byte_vouches_for_nothing(settled):
    path = settled / ".verified.json"
    whole = path.read_bytes()
    flip(settled / "numbers")
    for place in range(0, len(whole), 3):
        path.write_bytes(whole)
        flip(path, place)
        assert not is_complete(settled)


# ---- what is hashed --------------------------------------------------------------------------------------------------


def test_what_was_verified_is_not_hashed_again(settled, hashed):
    for _ in range(3):
        assert is_complete(settled)
        another_process()
    assert hashed == []
    assert fault(settled, hash_all=True) is None
    assert sorted(hashed) == sorted(NAMES)


def test_a_copy_is_hashed_once(settled, hashed):
    copy = settled.with_name("copy")
    shutil.copytree(settled, copy)
    time.sleep(0.12)
    for _ in range(3):
        assert is_complete(copy)
        another_process()
    assert sorted(hashed) == sorted(NAMES)
    flip(copy / "letters")
    assert not is_complete(copy)
    assert is_complete(settled)


def test_a_folder_that_cannot_be_stamped_is_hashed_in_each_process(settled, hashed, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest, "written_aside", refuse)
    (settled / ".verified.json").unlink()
    for _ in range(2):
        another_process()
        for _ in range(2):
            assert is_complete(settled)
    assert sorted(hashed) == sorted(2 * NAMES)
    write_stamp(settled, {})


def test_finished_with_some_of_its_files(tmp_path):
    assert not is_complete(tmp_path)
    (tmp_path / "letters").write_bytes(b"abc")
    (tmp_path / "numbers").write_bytes(b"0123")
    finish(tmp_path, ["letters"])
    assert is_complete(tmp_path)
    shorten(tmp_path / "numbers")
    assert is_complete(tmp_path)
    unfinish(tmp_path)
    unfinish(tmp_path)
    assert not is_complete(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"The corpus x: .* has no complete folder for it\. Make it again"):
        check_complete(tmp_path, "The corpus x", "Make it again.")


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 20_000])
def test_the_hash_of_a_file_does_not_depend_on_how_it_is_read(tmp_path, monkeypatch, size):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    expected = digest_file(path)
    monkeypatch.setattr(manifest, "_WINDOW", 4096)
    assert digest_file(path) == expected
