"""An LLM as a judge: retrieve with BM25, rate the relevance of each candidate, relabel, write triplets.

    pip install "hnm-datasets[openai]"
    python llm_judge.py    # prints the estimated cost; set BUDGET below to start

Any endpoint with OpenAI's API works. The key is read from the environment variable OPENAI_API_KEY. Scores are stored on
disk per pair, so no pair is judged twice; run the script again to resume. Thakur et al. 2025, RLHN
(https://arxiv.org/abs/2505.16967): candidates that the judge rates relevant become positives, and uncertain ones are
dropped. The scale of 0 to 3 is from Upadhyay et al. 2024, UMBRELA (https://arxiv.org/abs/2406.06519).
"""

import asyncio
import hashlib
import json
import os
import re
import sys

from openai import AsyncOpenAI, OpenAIError

import hnm_datasets as hnm

SOURCE = None  # the embedded sample; or a Hub id such as "BeIR/scifact", or a BEIR folder
BASE_URL = "https://api.openai.com/v1"  # or your own server: "http://localhost:8000/v1"
MODEL = "gpt-4o-mini"  # the name of the model at the endpoint
PRICE = (0.15, 0.60)  # dollars per million input and output tokens: see the endpoint's price list
BUDGET = None  # the dollars that this run may cost; None prints the estimate and sends no request
K = 10  # candidates to judge per query
NEGATIVES = 5  # per query
ANSWER_TOKENS = 8  # increase it for a reasoning model
CONCURRENCY = 8  # parallel requests
TIMEOUT = 60  # seconds per request
RETRIES = 5  # after a timeout, 429 or 5xx
PROMPT = """How relevant is the passage to the query?
0: it has nothing to do with the query
1: it is related, but does not answer the query
2: it answers a part of the query, or not clearly
3: it answers the query

Query: {query}

Passage: {passage}

Answer with one digit, 0, 1, 2 or 3, and nothing else."""
AGAIN = PROMPT.splitlines()[-1]  # the reply to an answer that is something else
UNSURE = 0.5  # the score of a pair without a usable answer: it is dropped


class StoppedError(Exception):
    """The budget is spent, or the endpoint does not return chat completions."""


def tokens_of(pairs):
    """Count pairs, and estimate their input and output tokens at four bytes per token."""
    sizes = [len(PROMPT.format(query=query, passage=passage).encode()) // 4 for query, passage in pairs]
    return len(sizes), sum(sizes), len(sizes) * ANSWER_TOKENS


def cost_of(read, written):
    """Return the cost of tokens in dollars."""
    return (read * PRICE[0] + written * PRICE[1]) / 1e6


class Judge:
    """A teacher for `CrossEncoderScores`: scores pairs from 0 to 1, and adds up the cost."""

    spent, unusable = 0.0, 0

    def __call__(self, pairs):
        """Score pairs of query and passage."""
        if self.spent + cost_of(*tokens_of(pairs)[1:]) > BUDGET:
            raise StoppedError(f"${self.spent:.4f} is spent, and the next requests would exceed the budget")
        return asyncio.run(self._scores(pairs))

    async def _scores(self, pairs):
        key, free = os.environ.get("OPENAI_API_KEY", "none"), asyncio.Semaphore(CONCURRENCY)
        async with AsyncOpenAI(api_key=key, base_url=BASE_URL, timeout=TIMEOUT, max_retries=RETRIES) as client:
            return await asyncio.gather(*(self._score(client, free, pair) for pair in pairs))

    async def _score(self, client, free, pair):
        messages = [{"role": "user", "content": PROMPT.format(query=pair[0], passage=pair[1])}]
        options = {"model": MODEL, "temperature": 0, "max_completion_tokens": ANSWER_TOKENS}
        async with free:
            for _ in range(2):
                try:
                    answer = await client.chat.completions.create(messages=messages, **options)
                    text, usage = answer.choices[0].message.content or "", answer.usage
                except (ValueError, AttributeError, TypeError, IndexError) as error:
                    raise StoppedError(f"the endpoint returned no chat completion ({error})") from None
                tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else tokens_of([pair])[1:]
                self.spent += cost_of(*tokens)
                if digit := re.fullmatch(r"\W*([0-3])\W*", text):
                    return int(digit[1]) / 3
                messages += [{"role": "assistant", "content": text}, {"role": "user", "content": AGAIN}]
        self.unusable += 1
        return UNSURE


corpus, queries = hnm.load_beir(SOURCE) if SOURCE else hnm.load_sample()
candidates = hnm.mine(queries, [hnm.BM25Negatives(corpus, k=K)])
# Scores are stored under the fingerprint, which covers all settings that change them, and written every 32 batches.
parts = json.dumps([BASE_URL, MODEL, ANSWER_TOKENS, PROMPT, AGAIN, UNSURE])
fingerprint, judge = f"llm-judge-{hashlib.sha256(parts.encode()).hexdigest()[:32]}", Judge()
teacher = hnm.CrossEncoderScores(corpus, judge, batch_size=max(1, CONCURRENCY // 32), fingerprint=fingerprint)
count, read, written = tokens_of(teacher.missing_pairs(candidates))
print(f"{count:,} pairs to judge: about {read:,} input and {written:,} output tokens, ${cost_of(read, written):.4f}")
if BUDGET is None:
    sys.exit("No request was sent. To start, set BUDGET to the dollars that the run may cost.")
if cost_of(read, written) > BUDGET:
    sys.exit(f"No request was sent: the estimate exceeds BUDGET = {BUDGET:g}. Increase it, or decrease K.")
try:
    judged = hnm.mine(candidates, [teacher])
except (StoppedError, OpenAIError) as error:
    sys.exit(f"Stopped: {type(error).__name__}: {error}. The scores so far are stored; run the script again to resume.")
print(f"${judge.spent:.4f} spent; {judge.unusable} pairs without a usable answer, which score {UNSURE}")

steps = [
    hnm.TeacherThreshold(negative_below=0.4, positive_above=0.9, promote=True),
    hnm.SortNegatives("teacher"),
    hnm.TopNegatives(NEGATIVES),
]
mined = hnm.mine(judged, steps)
print(f"{sum(map(len, mined['promoted_ids']))} candidates became positives")
print(hnm.explain(mined[0], corpus), "\n")

triplets = hnm.mine(mined, [hnm.ToTriplets(corpus)])
print("written:", hnm.save_mined(triplets, "mined/llm_judge", corpus=corpus), "(the triplets and a card)")
