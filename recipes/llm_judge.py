"""An LLM as the judge: retrieve with BM25, ask how relevant each candidate is, relabel, shape.

    pip install "hnm-datasets[openai]"
    python recipes/llm_judge.py --base-url http://localhost:8000/v1 --model qwen3-8b --price 0 0 --budget 0
    python recipes/llm_judge.py BeIR/scifact --model gpt-4o-mini --price 0.15 0.6   # tells what it would cost

Any endpoint that answers as OpenAI's does; the key is that of OPENAI_API_KEY. Thakur et al. 2025, RLHN
(https://arxiv.org/abs/2505.16967): candidates that the judge finds relevant become positives, those in between are
dropped. A score is the answer, 0 to 3, over 3 (the scale of Upadhyay et al. 2024, UMBRELA,
https://arxiv.org/abs/2406.06519). Answers are kept on disk by pair: repeat a run that stopped to go on.
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable

from _common import load_source, parser_of, write_and_show
from openai import AsyncOpenAI, OpenAIError

from hnm_datasets import BM25Negatives, CrossEncoderScores, SortNegatives, TeacherThreshold, TopNegatives, ToTriplets

PROMPT = """How relevant is the passage to the query?
0: it has nothing to do with the query
1: it is related, but does not answer the query
2: it answers a part of the query, or not clearly
3: it answers the query

Query: {query}

Passage: {passage}

Answer with one digit, 0, 1, 2 or 3, and nothing else."""
AGAIN = "Answer with one digit, 0, 1, 2 or 3, and nothing else."
#: The score of a pair without a usable answer: neither relevant nor not.
UNSURE = 0.5


class StoppedError(Exception):
    """The budget is spent, or the endpoint answers with something else than chat completions."""


class Judge:
    """A teacher for `CrossEncoderScores`: asks an endpoint, some pairs at a time, and counts what that costs."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.spent, self.unusable = args, 0.0, 0
        # What changes the answers is a part of the name that they are kept under.
        parts = [args.base_url, args.model, args.answer_tokens, PROMPT, AGAIN, UNSURE]
        self.fingerprint = f"llm-judge-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"

    def tokens_of(self, pairs: Iterable[tuple[str, str]]) -> tuple[int, int, int]:
        """Return how many pairs these are, and about how many tokens they are and get, at four bytes a token."""
        sizes = [len(PROMPT.format(query=query, passage=passage).encode()) // 4 for query, passage in pairs]
        return len(sizes), sum(sizes), len(sizes) * self.args.answer_tokens

    def cost_of(self, read: float, written: float) -> float:
        """Return the dollars of tokens read and written."""
        return (read * self.args.price[0] + written * self.args.price[1]) / 1e6

    def __call__(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Score pairs from 0 to 1."""
        if self.spent + self.cost_of(*self.tokens_of(pairs)[1:]) > self.args.budget:
            raise StoppedError(f"${self.spent:.4f} is spent, and the next answers would cost more than the budget")
        return asyncio.run(self._scores(pairs))

    async def _scores(self, pairs: list[tuple[str, str]]) -> list[float]:
        options = {"base_url": self.args.base_url, "timeout": self.args.timeout, "max_retries": self.args.retries}
        gate = asyncio.Semaphore(self.args.concurrency)
        async with AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "none"), **options) as client:
            return await asyncio.gather(*(self._score(client, gate, pair) for pair in pairs))

    async def _score(self, client: AsyncOpenAI, gate: asyncio.Semaphore, pair: tuple[str, str]) -> float:
        messages = [{"role": "user", "content": PROMPT.format(query=pair[0], passage=pair[1])}]
        async with gate:
            for _ in range(2):
                try:
                    answer = await client.chat.completions.create(
                        model=self.args.model,
                        messages=messages,
                        temperature=0,
                        max_completion_tokens=self.args.answer_tokens,
                    )
                    text, usage = answer.choices[0].message.content or "", answer.usage
                except (ValueError, AttributeError, TypeError, IndexError) as error:
                    raise StoppedError(f"the endpoint answered with no chat completion ({error})") from None
                tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else self.tokens_of([pair])[1:]
                self.spent += self.cost_of(*tokens)
                if found := re.fullmatch(r"\W*([0-3])\W*", text):
                    return int(found[1]) / 3
                messages += [{"role": "assistant", "content": text}, {"role": "user", "content": AGAIN}]
        self.unusable += 1
        return UNSURE


def main() -> None:
    parser = parser_of(__doc__, "llm_judge")
    parser.add_argument("--base-url", default="https://api.openai.com/v1", help="default: %(default)s")
    parser.add_argument("--model", required=True, help="its name at the endpoint")
    parser.add_argument("--price", type=float, nargs=2, required=True, help="dollars for a million tokens, in and out")
    parser.add_argument("--budget", type=float, help="dollars that this run may cost; without it: only tell")
    parser.add_argument("--k", type=int, default=10, help="candidates to judge per query (default: 10)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once (default: 8)")
    parser.add_argument("--answer-tokens", type=int, default=8, help="more for a model that thinks first (default: 8)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for an answer (default: 60)")
    parser.add_argument("--retries", type=int, default=5, help="after a time-out, 429 or 5xx (default: 5)")
    args = parser.parse_args()

    corpus, queries = load_source(args)
    candidates = queries.map(BM25Negatives(corpus, k=args.k), batched=True)
    judge = Judge(args)
    # Answers are written 32 batches at a time, so a run that stops loses no more than these.
    batch_size = max(1, args.concurrency // 32)
    teacher = CrossEncoderScores(corpus, judge, batch_size=batch_size, fingerprint=judge.fingerprint)
    count, read, written = judge.tokens_of(teacher.missing_pairs(candidates))
    cost = judge.cost_of(read, written)
    print(f"{count:,} pairs to ask: about {read:,} tokens in and {written:,} out, ${cost:.4f}")
    if args.budget is None:
        sys.exit("Nothing was asked. To start, say what it may cost: --budget DOLLARS.")
    if cost > args.budget:
        sys.exit(f"Nothing was asked: that is more than --budget {args.budget:g}. Raise it, or lower --k.")
    try:
        judged = candidates.map(teacher, batched=True)
    except (StoppedError, OpenAIError) as error:
        sys.exit(f"Stopped: {type(error).__name__}: {error}. The answers so far are kept; run it again to go on.")
    print(f"${judge.spent:.4f} spent; {judge.unusable} pairs without a usable answer, which score {UNSURE}")

    mined = (
        judged.map(TeacherThreshold(negative_below=0.4, positive_above=0.9, promote=True), batched=True)
        .map(SortNegatives("teacher"), batched=True)
        .map(TopNegatives(args.negatives), batched=True)
    )
    print(f"{sum(map(len, mined['promoted_ids']))} candidates became positives")
    triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)
    write_and_show(corpus, mined, triplets, args.output, "triplets", by="teacher")


if __name__ == "__main__":
    main()
