"""Pushing, against a Hub on this machine."""

import logging
import shlex
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import huggingface_hub
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from fake_hub import FakeHub

from hnm_datasets import BM25Negatives, RankWindow, load_sample, mine
from hnm_datasets.hub import shards
from hnm_datasets.hub.push import push_mined
from hnm_datasets.hub.saving import save_mined
from hnm_datasets.storage.folders import cache_root

TOKEN = "hf_" + "aBcD" * 8
REPO = "me/quakes"


@pytest.fixture
def triplets():
    texts = [f"passage {number}" for number in range(12)]
    return Dataset.from_dict(
        {"anchor": [f"query {text}" for text in texts], "positive": texts, "negative": texts[::-1]}
    )


@pytest.fixture
def mined():
    corpus, queries = load_sample("earthquakes")
    return corpus, queries.map(BM25Negatives(corpus, k=4), batched=True)


@pytest.fixture(autouse=True)
def _no_hub_but_ours(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    # What is tried again waits for seconds before.
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(monkeypatch):
    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    yield hub
    huggingface_hub.close_session()
    hub.close()


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_push_is_one_commit_of_the_folder(hub, mined):
    corpus, rows = mined
    url = push_mined(rows, REPO, corpus=corpus, token=TOKEN, commit_message="First", private=True)
    assert url == f"{hub.url}/datasets/{REPO}"
    folder = cache_root() / "pushes" / "me" / "quakes"
    assert hub.files[REPO]["main"] == files_of(folder) | {".gitattributes": b""}
    assert sorted(files_of(folder)) == [
        "README.md",
        "corpus/train-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
        "mining.json",
    ]
    ((header, operations),) = hub.commits
    assert header["summary"] == "First"
    assert len(operations) == 4
    assert {token for _, path, token in hub.asked if REPO in path} == {f"Bearer {TOKEN}"}
    assert f'load_dataset("{REPO}"' in (folder / "README.md").read_text()


def test_a_push_of_mined_rows_says_how_they_were_mined(hub, tmp_path):
    corpus, queries = load_sample("earthquakes")
    steps = [BM25Negatives(corpus, k=4), RankWindow(2)]
    mined = mine(queries, steps)
    push_mined(mined, REPO, folder=tmp_path / "set", corpus=corpus)
    card = hub.files[REPO]["main"]["README.md"].decode()
    assert "1. BM25Negatives(" in card
    assert "\n2. RankWindow(min=2)\n" in card
    with pytest.raises(ValueError, match="push_mined: steps= contradicts the steps that the rows remember"):
        push_mined(mined, REPO, folder=tmp_path / "set", corpus=corpus, steps=steps[:1])
    assert len(hub.commits) == 1


def test_a_second_push_takes_stale_shards_away(hub, tmp_path, monkeypatch, triplets):
    monkeypatch.setattr(shards, "_SHARD", 200)
    push_mined(triplets, REPO, folder=tmp_path / "set")
    hub.files[REPO]["main"]["notes/kept.txt"] = b"kept"
    assert len([name for name in hub.files[REPO]["main"] if name.startswith("data/")]) > 1
    monkeypatch.setattr(shards, "_SHARD", 1_000_000)
    push_mined(triplets, REPO, folder=tmp_path / "set")
    assert len(hub.commits) == 2
    others = {".gitattributes": b"", "notes/kept.txt": b"kept"}
    assert hub.files[REPO]["main"] == files_of(tmp_path / "set") | others
    push_mined(triplets, REPO, folder=tmp_path / "set")
    assert len(hub.commits) == 2, "nothing has changed"


def test_a_push_to_a_branch_makes_it(hub, tmp_path, triplets):
    push_mined(triplets, REPO, folder=tmp_path / "set")
    push_mined(triplets.select([0]), REPO, folder=tmp_path / "set", revision="small")
    push_mined(triplets.select([1]), REPO, folder=tmp_path / "set", revision="small")
    assert hub.files[REPO]["small"] == files_of(tmp_path / "set") | {".gitattributes": b""}
    assert hub.files[REPO]["main"]["README.md"] != hub.files[REPO]["small"]["README.md"]


def test_a_set_of_others_is_not_overwritten(hub, tmp_path, triplets):
    hub.files[REPO]["main"] = {".gitattributes": b"", "data/train.parquet": b"theirs", "README.md": b"theirs"}
    with pytest.raises(FileExistsError, match=r"contains files that push_mined did not write .*Choose another repo_id"):
        push_mined(triplets, REPO, folder=tmp_path / "set")
    assert hub.commits == []
    # A repository that was made by hand on the site holds a card and nothing else.
    del hub.files[REPO]["main"]["data/train.parquet"]
    push_mined(triplets, REPO, folder=tmp_path / "set")
    assert hub.files[REPO]["main"]["README.md"] == (tmp_path / "set" / "README.md").read_bytes()


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "a b/c", "me/what?", "quakes", "me/", "me/a..b", None, 3])
def test_a_bad_id_is_refused_before_anything_is_written(hub, tmp_path, triplets, repo_id):
    with pytest.raises(ValueError, match="repo_id must be 'name/dataset'"):
        push_mined(triplets, repo_id, folder=tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
    assert hub.asked == []


def test_what_cannot_be_saved_is_not_pushed(hub, tmp_path, triplets):
    with pytest.raises(ValueError, match="push_mined: the split 'train' has no rows"):
        push_mined(triplets.select([]), REPO, folder=tmp_path / "set")
    with pytest.raises(KeyError, match="push_mined: no format of mined data"):
        push_mined(triplets.remove_columns("negative"), REPO, folder=tmp_path / "set")
    with pytest.raises(TypeError, match=r"unknown options \['licence'\]; save_mined knows"):
        push_mined(triplets, REPO, folder=tmp_path / "set", licence="mit")
    assert hub.asked == []


FAILURES = [
    ("/api/repos/create", 401, PermissionError, "Log in with `hf auth login` or pass token="),
    ("/api/repos/create", 403, PermissionError, r"refused the token \(status 403\)"),
    ("/api/repos/create", 500, RuntimeError, "responded with status 500"),
    ("/tree/", 404, RuntimeError, "responded with status 404"),
    ("/preupload/", 403, PermissionError, "refused the token"),
    ("/preupload/", 503, RuntimeError, "responded with status 503"),
    ("/commit/", 403, PermissionError, "refused the token"),
    ("/commit/", 500, RuntimeError, "responded with status 500"),
    ("/validate-yaml", 400, RuntimeError, "Invalid metadata"),
]


@pytest.mark.parametrize(("part", "status", "kind", "message"), FAILURES)
def test_a_failed_push_says_how_to_go_on(hub, tmp_path, triplets, part, status, kind, message):
    folder = tmp_path / "a set"
    hub.failures[part] = (status, {"error": "the reason", "errors": [{"message": "the reason"}]})
    with pytest.raises(kind, match=message) as caught:
        push_mined(triplets, REPO, folder=folder, token=TOKEN)
    text = str(caught.value)
    assert "the reason" in text
    assert f"The dataset is complete in {folder}" in text
    assert f"hf upload {REPO} '{folder}' . --repo-type dataset" in text
    assert caught.value.__cause__ is not None
    assert hub.commits == []
    assert load_dataset(str(folder), split="train").to_list() == triplets.to_list()
    hub.failures.clear()
    push_mined(triplets, REPO, folder=folder, token=TOKEN)
    assert hub.files[REPO]["main"] == files_of(folder) | {".gitattributes": b""}


def test_the_command_of_the_message_goes_on(hub, tmp_path, monkeypatch, triplets):
    hub.failures["/commit/"] = (403, {"error": "no"})
    folder = tmp_path / "a set"
    with pytest.raises(PermissionError) as caught:
        push_mined(triplets, REPO, folder=folder, token=TOKEN, revision="next", private=True)
    hub.failures.clear()
    hub.files[REPO]["next"] = {".gitattributes": b"", "data/train-00000-of-00009.parquet": b"stale"}
    command = str(caught.value).split("To resume, run: ")[1].split(" (or call")[0]
    program, *arguments = shlex.split(command)
    assert program == "hf"
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "NO_PROXY": "127.0.0.1",
        "PATH": "",
        "HOME": str(tmp_path),
    }
    program = Path(sys.executable).with_name("hf")
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.files[REPO]["next"] == files_of(folder) | {".gitattributes": b""}


def test_a_hub_that_is_not_there(tmp_path, monkeypatch, triplets):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(ConnectionError, match="could not be reached") as caught:
        push_mined(triplets, REPO, folder=tmp_path / "set")
    assert "To resume, run: hf upload" in str(caught.value)
    assert load_dataset(str(tmp_path / "set"), split="train").num_rows == 12


# ---- tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [TOKEN, "a-token-of-another-shape"])
@pytest.mark.parametrize("part", ["/api/repos/create", "/preupload/", "/commit/"])
def test_no_token_is_told_though_the_server_echoes_it(hub, tmp_path, monkeypatch, triplets, caplog, capfd, token, part):
    hub.failures[part] = (403, {"error": f"Bearer {token} may not write"})
    caplog.set_level(logging.DEBUG)
    with pytest.raises(PermissionError, match=r"Bearer \[token\] may not write") as caught:
        push_mined(
            triplets,
            REPO,
            folder=tmp_path / "set",
            token=token,
            steps=[f"download(token={token!r})"],
            source=f"https://me:{token}@example.org/set",
            name=f"Set of {token}",
        )
    assert token not in "".join(traceback.format_exception(caught.value))
    for name, content in files_of(tmp_path / "set").items():
        assert token.encode() not in content, name
    assert "download(token='[token]')" in (tmp_path / "set" / "README.md").read_text()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("hnm_datasets")]
    assert token not in "".join([*ours, *capfd.readouterr()])
    assert (hub.asked[-1][2]) == f"Bearer {token}"


@pytest.mark.parametrize("where", ["HF_TOKEN", "login"])
def test_tokens_of_the_environment_and_the_login_are_not_told(hub, tmp_path, monkeypatch, triplets, where):
    token = "token-without-the-usual-shape"
    if where == "login":
        (tmp_path / "login").write_text(f"{token}\n")
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    else:
        monkeypatch.setenv(where, token)
    folder = save_mined(triplets, tmp_path / "set", steps=[f"with {token}"], source=token)
    assert all(token.encode() not in content for content in files_of(folder).values())
    hub.failures["/commit/"] = (403, {"error": f"{token} is bad"})
    with pytest.raises(PermissionError, match=r"\[token\] is bad"):
        push_mined(triplets, REPO, folder=folder)


@pytest.mark.parametrize("token", [TOKEN, "my_own*token-[1]"])
def test_a_token_in_a_text_is_not_shown_by_the_card(tmp_path, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    # The audit names the query whose positive comes as a negative, and Markdown escapes what is in it.
    rows = Dataset.from_dict({"anchor": [f"is {token} mine?"], "positive": ["yes"], "negative": ["yes"]})
    folder = save_mined(rows, tmp_path / "set")
    for name in ("README.md", "mining.json"):
        text = (folder / name).read_text()
        assert token not in text.replace("\\", ""), name
        assert "is [token] mine?" in text, name
    assert load_dataset(str(folder), split="train").to_list() == rows.to_list()


def test_a_bad_split_name_is_refused_before_anything_is_sent(tmp_path):
    rows = Dataset.from_dict({"anchor": ["a?"], "positive": ["A."], "negative": ["B."]})
    with pytest.raises(ValueError, match=r"push_mined: a split name may contain letters.*'\.\./\.\./evil'"):
        push_mined(DatasetDict({"../../evil": rows}), "me/set", folder=tmp_path / "set")
    assert not list(tmp_path.iterdir())
