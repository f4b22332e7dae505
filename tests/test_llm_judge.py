"""The recipe of the LLM judge, against a server on this machine that answers as such endpoints do."""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
import recipe_copies

pytest.importorskip("openai")
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
    """Run a copy of the recipe in this process; return what it prints and the triplets."""

    def judge(**constants):
        options = {"SOURCE": str(source), "BASE_URL": endpoint.url, "MODEL": "m", "PRICE": (1, 10), "BUDGET": 1}
        options |= {"K": PASSAGES, "NEGATIVES": PASSAGES}
        folder = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        path = recipe_copies.copy("llm_judge.py", folder, **options | constants)
        monkeypatch.setenv("OPENAI_API_KEY", "key-1")
        recipe_copies.run_here(path, monkeypatch)
        (data,) = (folder / "mined" / "llm_judge" / "data").glob("*.parquet")
        return capsys.readouterr().out, pd.read_parquet(data)

    return judge


PAIRS = QUERIES * (1 + PASSAGES)


def numbers_of(triplets):
    """Count the triplets by the numbers of their positive and negative."""
    return Counter(zip(triplets["positive"].str[-1], triplets["negative"].str[-1], strict=True))


def test_candidates_become_negatives_positives_or_nothing(endpoint, judge):
    # The positive and the first candidate are relevant, the second one is in between, the third one is not relevant.
    endpoint.reply = lambda passage, times: {"0": "3", "1": " 3.", "2": "**2**", "3": "1"}[passage[-1]]
    printed, triplets = judge()
    assert f"{PAIRS} pairs to judge: about" in printed
    assert f"${PAIRS * (200 + 10) / 1e6:.4f} spent; 0 pairs without" in printed
    assert f"{QUERIES} candidates became positives" in printed
    assert numbers_of(triplets) == {("0", "3"): QUERIES, ("1", "3"): QUERIES}
    # All are of one query.
    words = triplets.apply(lambda column: column.str.extract(r"(word\d+)")[0])
    assert (words.nunique(axis=1) == 1).all()
    assert endpoint.keys == {"Bearer key-1"}
    assert set(endpoint.asked.values()) == {1}
    assert len(endpoint.asked) == PAIRS


def test_unusable_answers_are_asked_for_again_and_then_score_in_between(endpoint, judge):
    odd = {"0": "3", "1": "4", "2": "I would say 2 or 3.", "3": ""}
    endpoint.reply = lambda passage, times: "1" if times == 2 and passage[-1] == "2" else odd[passage[-1]]
    printed, triplets = judge()
    assert f"{2 * QUERIES} pairs without a usable answer, which score 0.5" in printed
    assert Counter(endpoint.asked.values()) == {2: 3 * QUERIES, 1: QUERIES}
    # They are neither negatives nor positives.
    assert numbers_of(triplets) == {("0", "2"): QUERIES}
    again = [body["messages"] for body in endpoint.bodies if len(body["messages"]) == 3]
    assert {messages[1]["content"] for messages in again} == {"4", "I would say 2 or 3.", ""}


NOTHING = [b"not json", {"error": {"message": "overloaded"}}, {"choices": []}, {"choices": [{}]}, b"[]"]


@pytest.mark.parametrize("body", NOTHING, ids=repr)
def test_what_is_no_answer_of_a_model_stops_the_run(endpoint, judge, body):
    endpoint.reply = lambda passage, times: body
    with pytest.raises(SystemExit, match="Stopped: StoppedError: the endpoint returned no chat completion"):
        judge()


def test_the_client_tries_again_after_429_and_time_outs(endpoint, judge):
    def reply(passage, times):
        if times > 1:
            return "0"
        return 429 if passage[-1] == "1" else 0.6 if passage.startswith("word3 ") and passage[-1] == "2" else "0"

    endpoint.reply = reply
    printed, triplets = judge(TIMEOUT=0.3, CONCURRENCY=40)
    assert "0 pairs without a usable answer" in printed
    assert numbers_of(triplets) == {("0", number): QUERIES for number in "123"}
    assert Counter(endpoint.asked.values()) == {2: QUERIES + 1, 1: PAIRS - QUERIES - 1}


def test_a_run_that_stops_goes_on_and_asks_no_pair_twice(endpoint, judge):
    endpoint.reply = lambda passage, times: "0" if len(endpoint.asked) <= 32 else 429
    with pytest.raises(SystemExit, match=r"Stopped: RateLimitError: .*are stored; run the script again to resume"):
        judge(RETRIES=1)
    kept = set(list(endpoint.asked)[:32])
    endpoint.reply = lambda passage, times: "0"
    endpoint.asked.clear()
    printed, triplets = judge(RETRIES=1)
    assert f"{PAIRS - 32} pairs to judge" in printed
    assert not kept & set(endpoint.asked)
    assert len(endpoint.asked) == PAIRS - 32
    assert len(triplets) == QUERIES * PASSAGES


def test_no_more_requests_are_open_than_wanted(endpoint, judge):
    endpoint.reply = lambda passage, times: 0.01
    judge(CONCURRENCY=5)
    assert 2 <= endpoint.most_at_once <= 5


def test_nothing_is_asked_without_a_budget_or_above_it(endpoint, judge, capsys):
    with pytest.raises(SystemExit, match=r"No request was sent\. To start, set BUDGET to the dollars"):
        judge(BUDGET=None)
    assert re.search(
        rf"{PAIRS} pairs to judge: about \d,\d+ input and {8 * PAIRS} output tokens, \$0.00\d\d",
        capsys.readouterr().out,
    )
    with pytest.raises(SystemExit, match=r"No request was sent: .* exceeds BUDGET = 0\.001\. Increase it"):
        judge(BUDGET=0.001)
    assert not endpoint.asked


def test_it_stops_where_the_answers_cost_more_than_it_thought(endpoint, judge):
    endpoint.usage = (2000, 100)
    with pytest.raises(SystemExit, match=r"Stopped: StoppedError: \$0.0960 is spent.*run the script again"):
        judge(BUDGET=0.0965)
    assert len(endpoint.asked) == 32


def test_answers_are_kept_for_one_prompt_model_and_endpoint(endpoint, judge, capsys):
    judge()
    others = [{"MODEL": "n"}, {"BASE_URL": f"{endpoint.url}/"}, {"ANSWER_TOKENS": 9}, {"AGAIN": "One digit, please."}]
    for changed, count in [({"PRICE": (2, 2)}, 0), *((other, PAIRS) for other in others)]:
        with pytest.raises(SystemExit, match="No request was sent"):
            judge(BUDGET=None, **changed)
        assert f"\n{count} pairs to judge" in capsys.readouterr().out
