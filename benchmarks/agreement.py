"""Does `mine_hard_negatives` return the same rows as the function of sentence-transformers?

    python benchmarks/agreement.py SET... [--model static|minilm|PATH]

Needs the `dev` extra and train splits. Both functions run with all output formats and several sets of options. Rows are
compared as tuples of texts. Each difference has one of these causes, found from the negatives of the query:

- documented: theirs has a negative that equals a positive of the query, the query itself or another negative, except
  for case, white space and Unicode form. Without such negatives, ours begins with theirs.
- tie: at every position the scores are within 1e-6, so rounding decides.
- unexplained: any other difference.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from inputs import pairs_of, texts_of
from models import make_model
from runner import Benchmark, Part, Run, option, set_name, table
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives as their_function

from hnm_datasets import load_beir, mine_hard_negatives
from hnm_datasets.corpus.text import normalized_digests

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
NUM_NEGATIVES = 3
TIE = 1e-6
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "relative_margin=0.05": {"relative_margin": 0.05},
    "absolute_margin=0.1": {"absolute_margin": 0.1},
    "max_score=0.7, min_score=0.2": {"max_score": 0.7, "min_score": 0.2},
    "range_max=20, relative_margin=0.1": {"range_max": 20, "relative_margin": 0.1},
    "corpus": {"corpus": True},
    "corpus, relative_margin=0.05": {"corpus": True, "relative_margin": 0.05},
}


class Row(NamedTuple):
    """One row of a result.

    Attributes:
        texts: All its texts, in the order of the labels.
        group: The query, and the positive if the row has only one.
        negatives: Its (text, score) pairs: one for a triplet or a labeled pair, none for a labeled positive.
    """

    texts: tuple[str, ...]
    group: tuple[str, str]
    negatives: tuple[tuple[str, float], ...]


def rows_of(mined: Dataset, output_format: str, positives: dict[str, list[str]]) -> list[Row]:
    """Convert the rows of any format, with scores, to one form."""
    table = mined.with_format("arrow")[:].to_pydict()
    rows = []
    if output_format in ("triplet", "n-tuple"):
        texts = list(zip(*(values for name, values in table.items() if name != "scores"), strict=True))
        for line, scores in zip(texts, table["scores"], strict=True):
            rows.append(Row(line, line[:2], tuple(zip(line[2:], scores[1:], strict=True))))
    elif output_format == "labeled-list":
        for query, texts, scores in zip(table["query"], table["passage"], table["scores"], strict=True):
            rows.append(Row((query, *texts), (query, texts[0]), tuple(zip(texts[1:], scores[1:], strict=True))))
    else:
        seen: Counter[str] = Counter()
        for query, text, score in zip(table["query"], table["passage"], table["score"], strict=True):
            seen[query] += 1
            is_negative = seen[query] > len(positives[query])
            label = "negative" if is_negative else "positive"
            rows.append(Row((query, text, label), (query, ""), ((text, score),) if is_negative else ()))
    return rows


def reason(query: str, own: list[str], ours: list[tuple[str, float]], theirs: list[tuple[str, float]], n: int) -> str:
    """Return why two lists of negatives differ.

    Args:
        query: The query.
        own: The positives of the query.
        ours: The negatives of this library and their scores, best first.
        theirs: The negatives of sentence-transformers and their scores, best first.
        n: The number of negatives without which the row is dropped.
    """
    if [text for text, _ in ours] == [text for text, _ in theirs]:
        return "order"
    taken = {key_of(text) for text in (query, *own)}
    allowed = []
    for text, score in theirs:
        if key_of(text) not in taken:
            allowed.append((text, score))
        taken.add(key_of(text))
    removed = len(allowed) < len(theirs)
    known = dict(ours)
    # Two swapped negatives must have the same score in both lists.
    agree = all(abs(score - known.get(text, score)) <= TIE for text, score in allowed) and all(
        a == b or abs(score - other) <= TIE for (a, score), (b, other) in zip(ours, allowed, strict=False)
    )
    if removed and agree and (len(ours) >= len(allowed) or (not ours and len(allowed) < n)):
        return "documented"
    return "tie" if agree and not removed and len(ours) == len(theirs) else "unexplained"


_KEYS: dict[str, bytes] = {}


def key_of(text: str) -> bytes:
    """Return a key that is equal for texts that differ only in case, white space and Unicode form."""
    if text not in _KEYS:
        _KEYS[text] = normalized_digests([text]).tobytes()
    return _KEYS[text]


def compare(ours: list[Row], theirs: list[Row], positives: dict[str, list[str]], output_format: str) -> dict[str, int]:
    """Count common rows, and explain rows that only one side has or that are in another order."""
    both = Counter(row.texts for row in ours) & Counter(row.texts for row in theirs)
    alone, common = [], []
    for rows in (ours, theirs):
        left, kept = both.copy(), []
        for row in rows:
            if left[row.texts]:
                left[row.texts] -= 1
                kept.append(row)
            else:
                alone.append(row)
        common.append(kept)
    moved = [row for row, other in zip(*common, strict=True) if row.texts != other.texts]
    groups: list[dict[tuple[str, str], list[tuple[str, float]]]] = []
    for rows in (ours, theirs):
        groups.append(defaultdict(list))
        for row in rows:
            groups[-1][row.group].extend(row.negatives)
    n = NUM_NEGATIVES if output_format == "n-tuple" else 1
    reasons: Counter[str] = Counter()
    known: dict[tuple[str, str], str] = {}
    for row in alone + moved:
        query = row.group[0]
        if row.group not in known:
            lists = [one.get(row.group, []) for one in groups]
            known[row.group] = reason(query, positives[query], *lists, n)
        reasons[known[row.group]] += 1
    return {
        "ours": len(ours),
        "theirs": len(theirs),
        "both": sum(both.values()),
        "in order": len(common[0]) - len(moved),
        "ties": reasons["tie"],
        "documented": reasons["documented"],
        "unexplained": reasons["unexplained"] + reasons["order"],
    }


def compare_set(source: str, model: SentenceTransformer, vectors: str) -> list[dict[str, Any]]:
    """Run both functions on one set."""
    corpus, queries = load_beir(source, split="train")
    texts = list(dict.fromkeys(texts_of(corpus)))
    dataset = pairs_of(corpus, queries, "passage")
    positives: dict[str, list[str]] = defaultdict(list)
    for pair in dataset:
        if pair["passage"] not in positives[pair["query"]]:
            positives[pair["query"]].append(pair["passage"])
    found = []
    for label, options in OPTIONS.items():
        chosen = {name: texts if name == "corpus" else value for name, value in options.items()}
        for output_format in FORMATS:
            chosen |= {"output_format": output_format, "output_scores": True, "verbose": False, "batch_size": 256}
            ours = mine_hard_negatives(dataset, model, num_negatives=NUM_NEGATIVES, **chosen)
            with contextlib.redirect_stderr(io.StringIO()):
                # The cache is safe here: there is one model.
                theirs = their_function(
                    dataset, model, num_negatives=NUM_NEGATIVES, cache_folder=f"{vectors}/{set_name(source)}", **chosen
                )
            assert ours.features == theirs.features or not len(theirs)
            rows = [rows_of(mined, output_format, positives) for mined in (ours, theirs)]
            counts = compare(*rows, positives, output_format)
            found.append({"set": set_name(source), "format": output_format, "options": label} | counts)
            print(found[-1], flush=True)
    return found


def measure(run: Run) -> dict[str, Any]:
    known = {"static": "static embeddings (wordllama)", "minilm": "all-MiniLM-L6-v2"}
    model = make_model(run.model) if run.model in known else SentenceTransformer(run.model, device="cpu")
    rows = []
    for source in run.sets:
        rows += compare_set(source, model, str(run.scratch))
        _KEYS.clear()
    return {"model": known.get(run.model, Path(run.model).name), "rows": rows}


def show(found: dict[str, Any]) -> str:
    names = ("set", "format", "options", "ours", "theirs", "in order", "ties", "documented", "unexplained")
    total = {name: sum(row[name] for row in found["rows"]) for name in names[3:]}
    rows = [[row.get(name) for name in names] for row in [*found["rows"], {"set": "all"} | total]]
    return (
        f"Model: {found['model']}; {NUM_NEGATIVES} negatives per query; split train. Rows are compared as tuples of "
        f"texts. Equal in order: rows that both have, in the same order. The last three columns count the rows that "
        f"only one of the two has, or that are in another order, by their reason: ties are scores within {TIE:g} of "
        f"each other; documented are negatives of theirs that are, but for case, white space and Unicode form, a "
        f"positive, the query itself or another negative.\n\n"
        + table("set|format|options|rows, ours|rows, theirs|equal in order|ties|documented|unexplained", rows)
    )


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {"model": option("static", "static, minilm, or the path or Hub id of a SentenceTransformer")},
        sets="+",
        file=lambda _: "agreement",
        repeats=None,
    ).run()
