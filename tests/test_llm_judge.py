"""The recipe of the LLM judge, against a server on this machine that answers as such endpoints do."""

import json
import re
import runpy
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

pytest.importorskip("openai")
RECIPES = Path(__file__).parents[1] / "recipes"
QUERIES, PASSAGES = 12, 3
# Warnings of the libraries are no errors for a user.
pytestmark = pytest.mark.filterwarnings("default")


class Endpoint:
    """Answers what `reply` returns for a pair's passage and how often it was asked: a text, a status, or a body."""

    def __init__(self):
        self.asked, self.keys, self.bodies, self.usage = Counter(), set(), [], (200, 1)
        self.at_once, self.most_at_once, lock = 0, 0, threading.Lock()
        self.reply = lambda passage, times: "0"
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            # One packet an answer: the second of two would wait for 40 ms.
            wbufsize = -1

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.bodies.append(body)
                endpoint.keys.add(self.headers["Authorization"])
                query, passage = re.search(r"Query: (.*)\n\nPassage: (.*)", body["messages"][0]["content"]).groups()
                endpoint.asked[query, passage] += 1
                reply = endpoint.reply(passage, endpoint.asked[query, passage])
                with lock:
                    endpoint.at_once += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
                if isinstance(reply, float):
                    time.sleep(reply)
                    reply = "0"
                with lock:
                    endpoint.at_once -= 1
                status, content = (reply, {"error": {"message": "no"}}) if isinstance(reply, int) else (200, reply)
                if isinstance(content, str):
                    usage = dict(zip(("prompt_tokens", "completion_tokens"), endpoint.usage, strict=True))
                    message = {"role": "assistant", "content": content}
                    choice = {"index": 0, "finish_reason": "stop", "message": message}
                    content = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                    content["usage"] = usage | {"total_tokens": sum(usage.values())}
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    if status == 429:
                        self.send_header("retry-after-ms", "1")
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # whoever asked has given up waiting
                    pass

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.fixture
def source(tmp_path):
    """A set in BEIR's form: each query has one positive and finds three other passages, named by their numbers."""
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    words = [f"word{query}" for query in range(QUERIES)]
    passages = [
        {"_id": f"{query}-{place}", "text": f"{word} {tmp_path.name} number {place}"}
        for query, word in enumerate(words)
        for place in range(1 + PASSAGES)
    ]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, passages)))
    queries = [{"_id": str(query), "text": f"what is {word}?"} for query, word in enumerate(words)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    judgments = "".join(f"{query}\t{query}-0\t1\n" for query in range(QUERIES))
    (folder / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgments}")
    return folder


@pytest.fixture
def judge(monkeypatch, capsys, endpoint, source, tmp_path):
    """Run the recipe in this process; return what it prints and the mined rows."""

    def judge(*options, budget=1):
        output = tmp_path / "mined"
        arguments = [source, "--base-url", endpoint.url, "--model", "m", "--price", 1, 10, "--k", PASSAGES]
        arguments += ["--negatives", PASSAGES, "--output", output, *options]
        arguments += [] if budget is None else ["--budget", budget]
        monkeypatch.setattr(sys, "argv", ["llm_judge.py", *map(str, arguments)])
        monkeypatch.setenv("OPENAI_API_KEY", "key-1")
        monkeypatch.syspath_prepend(RECIPES)
        runpy.run_path(str(RECIPES / "llm_judge.py"), run_name="__main__")
        return capsys.readouterr().out, pd.read_parquet(output / "mined.parquet").set_index("query_id")

    return judge


PAIRS = QUERIES * (1 + PASSAGES)


def test_candidates_become_negatives_positives_or_nothing(endpoint, judge):
    # The positive and the first candidate are relevant, the second one is in between, the third one is not relevant.
    endpoint.reply = lambda passage, times: {"0": "3", "1": " 3.", "2": "**2**", "3": "1"}[passage[-1]]
    printed, mined = judge()
    assert f"{PAIRS} pairs to ask: about" in printed
    assert f"${PAIRS * (200 + 10) / 1e6:.4f} spent; 0 pairs without" in printed
    assert f"{QUERIES} candidates became positives" in printed
    for query, row in mined.iterrows():
        assert list(row.positive_ids) == [f"{query}-0", f"{query}-1"]
        assert list(row.negative_ids) == [f"{query}-3"]
        assert row.negative_teacher_scores == pytest.approx([1 / 3])
    assert endpoint.keys == {"Bearer key-1"}
    assert set(endpoint.asked.values()) == {1}
    assert len(endpoint.asked) == PAIRS


def test_unusable_answers_are_asked_for_again_and_then_score_in_between(endpoint, judge):
    odd = {"0": "3", "1": "4", "2": "I would say 2 or 3.", "3": ""}
    endpoint.reply = lambda passage, times: "1" if times == 2 and passage[-1] == "2" else odd[passage[-1]]
    printed, mined = judge()
    assert f"{2 * QUERIES} pairs without a usable answer, which score 0.5" in printed
    assert Counter(endpoint.asked.values()) == {2: 3 * QUERIES, 1: QUERIES}
    # They are neither negatives nor positives.
    assert [list(ids) for ids in mined.negative_ids] == [[f"{query}-2"] for query in mined.index]
    again = [body["messages"] for body in endpoint.bodies if len(body["messages"]) == 3]
    assert {messages[1]["content"] for messages in again} == {"4", "I would say 2 or 3.", ""}


NOTHING = [b"not json", {"error": {"message": "overloaded"}}, {"choices": []}, {"choices": [{}]}, b"[]"]


@pytest.mark.parametrize("body", NOTHING, ids=repr)
def test_what_is_no_answer_of_a_model_stops_the_run(endpoint, judge, body):
    endpoint.reply = lambda passage, times: body
    with pytest.raises(SystemExit, match="Stopped: StoppedError: the endpoint answered with no chat completion"):
        judge()


def test_the_client_tries_again_after_429_and_time_outs(endpoint, judge):
    def reply(passage, times):
        if times > 1:
            return "0"
        return 429 if passage[-1] == "1" else 0.6 if passage.startswith("word3 ") and passage[-1] == "2" else "0"

    endpoint.reply = reply
    printed, mined = judge("--timeout", 0.3, "--concurrency", 40)
    assert "0 pairs without a usable answer" in printed
    assert all(len(ids) == PASSAGES for ids in mined.negative_ids)
    assert Counter(endpoint.asked.values()) == {2: QUERIES + 1, 1: PAIRS - QUERIES - 1}


def test_a_run_that_stops_goes_on_and_asks_no_pair_twice(endpoint, judge):
    endpoint.reply = lambda passage, times: "0" if len(endpoint.asked) <= 32 else 429
    with pytest.raises(SystemExit, match=r"Stopped: RateLimitError: .*are kept; run it again to go on"):
        judge("--retries", 1)
    kept = set(list(endpoint.asked)[:32])
    endpoint.reply = lambda passage, times: "0"
    endpoint.asked.clear()
    printed, mined = judge("--retries", 1)
    assert f"{PAIRS - 32} pairs to ask" in printed
    assert not kept & set(endpoint.asked)
    assert len(endpoint.asked) == PAIRS - 32
    assert len(mined) == QUERIES


def test_no_more_requests_are_open_than_wanted(endpoint, judge):
    endpoint.reply = lambda passage, times: 0.01
    judge("--concurrency", 5)
    assert 2 <= endpoint.most_at_once <= 5


def test_nothing_is_asked_without_a_budget_or_above_it(endpoint, judge, capsys):
    with pytest.raises(SystemExit, match=r"Nothing was asked\. To start, say what it may cost: --budget DOLLARS"):
        judge(budget=None)
    assert re.search(
        rf"{PAIRS} pairs to ask: about \d,\d+ tokens in and {8 * PAIRS} out, \$0.00\d\d", capsys.readouterr().out
    )
    with pytest.raises(SystemExit, match=r"Nothing was asked: .* more than --budget 0\.001\. Raise it"):
        judge(budget=0.001)
    assert not endpoint.asked


def test_it_stops_where_the_answers_cost_more_than_it_thought(endpoint, judge):
    endpoint.usage = (2000, 100)
    with pytest.raises(SystemExit, match=r"Stopped: StoppedError: \$0.0960 is spent.*run it again"):
        judge(budget=0.0965)
    assert len(endpoint.asked) == 32


def test_another_prompt_model_or_endpoint_has_another_name(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    recipe = runpy.run_path(str(RECIPES / "llm_judge.py"))
    options = {"base_url": "u", "model": "m", "answer_tokens": 8}

    def name(**changed):
        return recipe["Judge"](SimpleNamespace(**options | changed)).fingerprint

    names = {name(), name(base_url="v"), name(model="n"), name(answer_tokens=9), name()}
    recipe["Judge"].__init__.__globals__["PROMPT"] += " Please."
    assert len(names | {name()}) == 5
