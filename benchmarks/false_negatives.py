"""How many mined negatives are relevant, with and without a teacher, and how hard are the others?

    python benchmarks/false_negatives.py                        # the embedded sample, MiniLM as the teacher
    python benchmarks/false_negatives.py SET SET --teachers minilm cross-encoder/ms-marco-MiniLM-L6-v2

For each query with at least three relevant passages, all but one are hidden, chosen by a seed. A mined negative that is
hidden is a false negative, like relevant passages without annotation in real data. Each strategy keeps the first n
candidates that remain for each query. Settings are calibrated on train queries and measured on test queries (the
embedded sample is split): the loosest setting that leaves a quarter of the false negatives of plain dense mining.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from datasets import Dataset
from inputs import load_set, texts_of
from matplotlib.figure import Figure
from models import make_model
from numpy.typing import NDArray
from runner import SEED, Benchmark, Part, Run, option, set_name, table
from scipy.stats import rankdata
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.util import mine_hard_negatives as their_function

import hnm_datasets as hnm
from hnm_datasets.columns import score_column
from hnm_datasets.transforms.base import Transform

#: Settings in a sweep, at equal steps of the share of candidates that they keep.
STEPS = 50
#: The rate that calibration allows, as a share of the false negatives of plain dense mining.
TARGET = 0.25
#: Below this share of found negatives a strategy is not comparable: it drops its hard queries.
ENOUGH = 0.9
THEIRS, THEIRS_TAUGHT = "mine_hard_negatives", "mine_hard_negatives, teacher"
#: Colors for color-blind readers (Okabe and Ito), and markers.
STYLES = {
    "dense, TeacherThreshold": ("#0072B2", "o"),
    "dense, AbsoluteMargin by teacher": ("#777777", "X"),
    "dense, RelativeMargin by teacher": ("#009E73", "s"),
    "BM25 + dense, TeacherThreshold": ("#CC79A7", "D"),
    "dense, RelativeMargin": ("#56B4E9", "^"),
    THEIRS: ("#D55E00", "v"),
    THEIRS_TAUGHT: ("#E69F00", "P"),
}
Finding = dict[str, Any]


class Filter(NamedTuple):
    """A source of candidates and a filter with a setting as its first argument."""

    source: str
    kind: type[hnm.TeacherThreshold] | type[hnm.AbsoluteMargin] | type[hnm.RelativeMargin]
    by: str = "teacher"

    def settings(self, mined: dict[str, pa.Table]) -> list[float]:
        """Return settings, from one that keeps all candidates to one that keeps only some."""
        rows = mined[self.source]
        lists = rows[score_column(self.by)].combine_chunks()
        scores = lists.flatten().to_numpy().astype(np.float64)
        keeping = np.linspace(1, 1 / STEPS, STEPS)
        if self.kind is hnm.TeacherThreshold:
            # A candidate is kept only if it is lower, so its own score would drop the highest one.
            return np.quantile(np.append(scores, scores.max() + 1e-6), keeping).tolist()
        # Each row has one positive.
        positives = rows[score_column(self.by, of="positive")].combine_chunks().flatten().to_numpy()
        against = np.repeat(positives.astype(np.float64), lists.value_lengths().to_numpy())
        unit = np.abs(against) if self.kind is hnm.RelativeMargin else 1
        return np.quantile((against - scores) / unit, 1 - keeping).tolist()


FILTERS = {
    "dense, TeacherThreshold": Filter("dense", hnm.TeacherThreshold),
    "dense, AbsoluteMargin by teacher": Filter("dense", hnm.AbsoluteMargin),
    "dense, RelativeMargin by teacher": Filter("dense", hnm.RelativeMargin),
    "BM25 + dense, TeacherThreshold": Filter("fused", hnm.TeacherThreshold),
    "dense, RelativeMargin": Filter("dense", hnm.RelativeMargin, by="score"),
}


class Hidden(NamedTuple):
    """Q queries of a split with one known positive each, and the relevance of N passages."""

    corpus: hnm.Corpus
    rows: Dataset
    known: NDArray[np.int64]  # the row of each query's positive in the corpus, shape (Q,)
    relevant: NDArray[np.bool_]  # also passages with the text of a relevant one, shape (Q, N)
    scores: NDArray[np.float32]  # the retriever's cosines, shape (Q, N)
    ranks: NDArray[np.int32]  # ranks in the retriever's lists, shape (Q, N)
    mined: dict[str, pa.Table]  # candidates by source, with the teacher's scores
    n: int  # negatives wanted per query

    def judge(self, owners: NDArray[np.integer], passages: NDArray[np.integer]) -> Finding:
        """Count the false negatives of these queries, and measure the hardness of the true ones."""
        if not len(owners):
            return {"found": 0.0}
        false, size = self.relevant[owners, passages], len(self.rows)
        wrong, taken = np.bincount(owners, false, size), np.bincount(owners, minlength=size)
        drawn = np.random.default_rng(SEED).integers(0, size, (2000, size))
        rates = wrong[drawn].sum(1) / np.maximum(taken[drawn].sum(1), 1)
        true = owners[~false], passages[~false]
        scores = self.scores[true]
        return {
            "found": len(owners) / (self.n * size),
            "false": float(false.mean()),
            "interval": np.quantile(rates, [0.025, 0.975]).tolist(),
            "score": float(scores.mean()),
            "rank": float(self.ranks[true].mean()),
            "above": float((scores > self.scores[true[0], self.known[true[0]]]).mean()),
        }

    def take(self, source: str, *steps: Transform) -> Finding:
        """Judge the first n candidates of a source that pass the steps, per query."""
        rows = self.mined[source]
        for step in (*steps, hnm.TopNegatives(self.n)):
            rows = step(rows)
        lists = rows["negative_ids"].combine_chunks()
        owners = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
        return self.judge(owners, self.corpus.rows(lists.flatten()))

    def sweep(self, one: Filter, settings: list[float]) -> list[Finding]:
        """Judge a filter at all settings."""
        return [{"value": value} | self.take(one.source, one.kind(value, by=one.by)) for value in settings]


def hide(corpus: hnm.Corpus, queries: Dataset, limit: int, retriever: SentenceTransformer, n: int) -> Hidden:
    """Choose queries with several positives, hide all but one of each, and judge all passages."""
    frame = queries.select_columns(["query_id", "query", "positive_ids"]).to_pandas().drop_duplicates("query")
    frame = frame[frame["positive_ids"].str.len() >= 3]
    rng = np.random.default_rng(SEED)
    frame = frame.iloc[np.sort(rng.permutation(len(frame))[:limit])]
    lengths = frame["positive_ids"].str.len().to_numpy()
    judged = corpus.rows(np.concatenate(frame["positive_ids"].to_list()).tolist())
    known = judged[np.cumsum(lengths) - lengths + rng.integers(0, lengths)]
    by_text = np.zeros((len(frame), len(corpus)), dtype=bool)
    by_text[np.repeat(np.arange(len(frame)), lengths), corpus.text_codes[judged]] = True
    vectors = retriever.encode_query(frame["query"].to_list(), normalize_embeddings=True, show_progress_bar=False)
    scores = vectors @ corpus.embed(retriever).vectors.T
    ranks = rankdata(-scores, method="min", axis=1).astype(np.int32)
    frame["positive_ids"] = [[name] for name in corpus.ids(known).to_pylist()]
    rows = Dataset.from_pandas(frame, preserve_index=False)
    return Hidden(corpus, rows, known, by_text[:, corpus.text_codes], scores, ranks, {}, n)


def load_splits(source: str | None) -> dict[str, tuple[hnm.Corpus, Dataset]]:
    if source:
        return {split: load_set(source, split) for split in ("train", "test")}
    corpus, queries = load_set(None, "")
    return {split: (corpus, queries.select(range(i, len(queries), 2))) for i, split in enumerate(("train", "test"))}


def make_teacher(name: str, corpus: hnm.Corpus, max_length: int) -> hnm.BiEncoderScores | hnm.CrossEncoderScores:
    if name == "minilm":
        return hnm.BiEncoderScores(corpus, make_model(name), "teacher")
    return hnm.CrossEncoderScores(corpus, CrossEncoder(name, max_length=max_length, device="cpu"), activation="sigmoid")


class AsCrossEncoder(NamedTuple):
    """Our teacher with the interface of their function, so both use the same scores and none is computed twice."""

    teacher: hnm.BiEncoderScores | hnm.CrossEncoderScores

    def predict(self, pairs: list[tuple[str, str]], **_: Any) -> torch.Tensor:
        """Score pairs."""
        queries, texts = map(list, zip(*pairs, strict=True))
        ids = self.teacher.corpus.ids(self.teacher.corpus.find_texts(texts)).to_pylist()
        rows = {"query": queries, "positive_ids": [[] for _ in ids], "negative_ids": [[name] for name in ids]}
        return torch.tensor(self.teacher(rows)["negative_teacher_scores"])[:, 0]


def mine_theirs(split: Hidden, retriever: SentenceTransformer, vectors: str, **options: Any) -> Finding:
    """Judge the negatives of their function for the same pairs in the same corpus."""
    texts = texts_of(split.corpus)
    pairs = {"query": split.rows["query"][:], "passage": [texts[row] for row in split.known]}
    options |= {"num_negatives": split.n, "sampling_strategy": "top", "batch_size": 256, "cache_folder": vectors}
    with contextlib.redirect_stderr(io.StringIO()):
        mined = their_function(Dataset.from_dict(pairs), retriever, corpus=texts, verbose=False, **options)
    owners = pd.Index(pairs["query"]).get_indexer(mined["query"][:])
    return split.judge(owners, split.corpus.find_texts(mined["negative"][:]))


def calibrated(one: Filter, train: Hidden, allowed: float) -> float | None:
    """Return the setting with this rate of false negatives among the first n on train, if there is one."""
    owners, passages = np.nonzero(train.relevant)
    ids = pa.array(train.rows["query_id"][:]).take(pa.array(owners))
    judged = pa.table({"query_id": ids, "corpus_id": train.corpus.ids(passages), "score": pa.repeat(1, len(owners))})
    rows, options = (Dataset(train.mined[one.source]), Dataset(judged), allowed), {"n": train.n, "by": one.by}
    try:
        if one.kind is hnm.TeacherThreshold:
            return hnm.calibrate_threshold(*rows, **options).value
        return hnm.calibrate_margin(*rows, relative=one.kind is hnm.RelativeMargin, **options).value
    except ValueError:
        return None


def compare(ours: list[Finding], theirs: list[Finding], fewest: float) -> Finding | None:
    """Return how far our rate of false negatives is above theirs at equal hardness, where both have points."""
    a, b = (
        np.array(sorted((one["score"], one["false"]) for one in curve if one["found"] >= fewest)).reshape(-1, 2)
        for curve in (ours, theirs)
    )
    if not len(a) or not len(b) or (low := max(a[0, 0], b[0, 0])) > (high := min(a[-1, 0], b[-1, 0])):
        return None
    at = np.unique(np.clip(np.concatenate([a[:, 0], b[:, 0]]), low, high))
    above = np.interp(at, *a.T) - np.interp(at, *b.T)
    return {"range": [low, high], "most": above.max(), "at": at[above.argmax()], "mean": above.mean()}


def measure_set(source: str | None, teacher_name: str, run: Run) -> Finding:
    """Measure all strategies on one set."""
    retriever, k = make_model(run.retriever), run.candidates
    splits: dict[str, Hidden] = {}
    for (name, (corpus, queries)), limit in zip(load_splits(source).items(), run.queries, strict=True):
        split = splits[name] = hide(corpus, queries, limit, retriever, run.negatives)
        teacher = make_teacher(teacher_name, corpus, run.max_length)
        dense, bm25 = hnm.DenseNegatives(corpus, retriever, k=k), hnm.BM25Negatives(corpus, k=k)
        fused = hnm.FuseNegatives({"bm25": bm25, "dense": dense}, k=k)
        split.mined["bm25"] = split.rows.map(bm25, batched=True).with_format("arrow")[:]
        for source, miner in (("dense", dense), ("fused", fused)):
            split.mined[source] = split.rows.map(miner, batched=True).map(teacher, batched=True).with_format("arrow")[:]
    train, test = splits["train"], splits["test"]
    rows = {("BM25", ""): test.take("bm25"), ("dense", ""): test.take("dense")}
    allowed = TARGET * train.take("dense")["false"]
    curves, hardness = {}, {}
    for name, one in FILTERS.items():
        # The usual 0.1 is a probability, which a cosine is not.
        if one.kind is not hnm.TeacherThreshold or isinstance(teacher, hnm.CrossEncoderScores):
            (found,) = test.sweep(one, [0.1 if one.kind is hnm.TeacherThreshold else 0.05])
            rows[name, f"{found['value']} (usual)"] = found
        settings = one.settings(train.mined)
        curves[name] = test.sweep(one, settings)
        if (value := calibrated(one, train, allowed)) is not None:
            (rows[name, f"{value:.3g} (train)"],) = test.sweep(one, [value])
            (chosen,) = train.sweep(one, [value])
            if one.by == "teacher" and chosen["found"] >= ENOUGH:
                hardness[name] = chosen["score"]
    example = {"range_min": 10, "range_max": 50, "max_score": 0.8}
    tips = {"0.05 (its advice)": {}, "0.05, ranks 10-50, at most 0.8 (its example)": example}
    for name, like, more in (
        (THEIRS, "dense, RelativeMargin", {}),
        (THEIRS_TAUGHT, "dense, RelativeMargin by teacher", {"cross_encoder": AsCrossEncoder(teacher)}),
    ):
        for setting, options in tips.items():
            rows[name, setting] = mine_theirs(
                test, retriever, str(run.scratch), relative_margin=0.05, **options, **more
            )
        curves[name] = [
            {"value": value}
            | mine_theirs(test, retriever, str(run.scratch), relative_margin=value, range_max=k, **more)
            for value in FILTERS[like].settings(train.mined)[::2]
        ]
    plain = rows["dense", ""]["false"]
    return {
        "set": set_name(source) if source else "embedded sample",
        "teacher": "all-MiniLM-L6-v2, a bi-encoder" if teacher_name == "minilm" else Path(teacher_name).name,
        "queries": {name: len(split.rows) for name, split in splits.items()},
        "relevant_per_query": test.relevant.sum(1).mean(),
        "rows": [
            {"strategy": name, "setting": setting, "ratio": row["false"] / plain} | row
            for (name, setting), row in rows.items()
            if row["found"]
        ],
        # The hardest negatives on train at the same rate: test data does not affect the choice.
        "best": max(hardness, key=hardness.__getitem__, default="none"),
        "compared": [
            {"strategy": name, "against": other}
            | {key: compare(curves[name], curves[other], least) for key, least in (("all", 1e-9), ("enough", ENOUGH))}
            for name in FILTERS
            for other in (THEIRS, THEIRS_TAUGHT)
        ],
        "curves": curves,
    }


def measure(run: Run) -> Finding:
    sources: list[str | None] = [*run.sets] or [None]
    if len(run.teachers) != len(sources):
        raise SystemExit(f"--teachers must name one for each of {len(sources)} sets, got {len(run.teachers)}.")
    return {
        "retriever": {"static": "static embeddings (wordllama)", "minilm": "all-MiniLM-L6-v2"}[run.retriever],
        "negatives": run.negatives,
        "candidates": run.candidates,
        "sets": [measure_set(source, teacher, run) for source, teacher in zip(sources, run.teachers, strict=True)],
    }


def show_set(one: Finding) -> str:
    """Return the tables of one set."""

    def excess(found: Finding | None) -> str:
        if found is None:
            return "no overlap"
        shown = f"{100 * found['most']:+.1f} at {found['at']:.3f} (mean {100 * found['mean']:+.1f})"
        return f"{'met' if found['most'] <= 0 else 'missed'}: {shown}"

    rows = []
    for row in one["rows"]:
        interval = "{:.1%} to {:.1%}".format(*row["interval"])
        hardness = f"{row['score']:.3f}", f"{row['rank']:.1f}", f"{row['above']:.0%}"
        met = "met" if row["ratio"] <= 0.5 and row["found"] >= ENOUGH else "missed"
        rates = f"{row['false']:.1%} ({interval})", f"{row['ratio']:.2f}"
        rows.append((row["strategy"], row["setting"], *rates, *hardness, f"{row['found']:.1%}", met))
    pairs = [(it["strategy"], it["against"], excess(it["all"]), excess(it["enough"])) for it in one["compared"]]
    return (
        f"## {one['set']}\n\nTeacher: {one['teacher']}. {one['queries']['test']} test queries with a mean of "
        f"{one['relevant_per_query']:.1f} relevant passages, of which one is known; {one['queries']['train']} train "
        f"queries. Target: at most half of plain dense mining's false negatives, and {ENOUGH:.0%} found.\n\n"
        + table("strategy|setting|false (95%)|of dense's|cosine|dense rank|above the positive|found|target", rows)
        + f"\nTarget: our curve never lies above theirs at equal cosine; the most by which it does, in percentage "
        f"points of false negatives. The best filter on train: **{one['best']}**.\n\n"
        + table(f"ours|theirs|all points|points that find {ENOUGH:.0%}", pairs)
    )


def show(found: Finding) -> str:
    return (
        f"![False negatives against hardness]({found['name']}.png)\n\nAll but one of the relevant passages of each "
        f"query are hidden; a mined negative that is one of them is false. {found['negatives']} a query are wanted, "
        f"from {found['candidates']} candidates of each source. Cosine, dense rank and the share above the known "
        f"positive are of the true negatives, by the retriever ({found['retriever']}); intervals resample queries. "
        f"*train*: the setting that `calibrate_threshold` or `calibrate_margin` read off the train queries, for "
        f"{TARGET:.0%} of plain dense mining's false negatives. {THEIRS} is that of sentence-transformers; with a "
        f"teacher it keeps what the teacher scores highest, so that hardness by the retriever favors us there.\n\n"
        + "\n".join(map(show_set, found["sets"]))
    )


def plot(found: Finding, target: Path) -> None:
    """Draw false negatives and found negatives against hardness."""
    figure = Figure(figsize=(max(4 * len(found["sets"]), 6), 7), layout="constrained")
    axes = figure.subplots(2, len(found["sets"]), sharex="col", sharey="row", squeeze=False)
    removed = []
    for (above, below), one in zip(axes.T, found["sets"], strict=True):
        rows = {(row["strategy"], row["setting"].rpartition("(")[2]): row for row in one["rows"]}
        best = rows.get((one["best"], "train)"), plain := rows["dense", ""])
        removed.append(f"{1 - best['ratio']:.0%}")
        change = (f"{plain[key]:{form}} → {best[key]:{form}}" for key, form in (("false", ".0%"), ("score", ".2f")))
        above.set_title("{}, {}\nfalse {}, cosine {}".format(one["set"], one["best"], *change), fontsize=9)
        for axis, what in ((above, "false"), (below, "found")):
            for name, (color, marker) in STYLES.items():
                points = pd.DataFrame([point for point in one["curves"][name] if point["found"]])
                axis.plot(points["score"], 100 * points[what], color=color, linewidth=1)
                full = np.where(points["found"] >= ENOUGH, color, "white")
                style = {"s": 20, "marker": marker, "edgecolors": color, "linewidths": 1, "zorder": 3}
                axis.scatter(points["score"], 100 * points[what], facecolors=full, **style)
                axis.scatter([], [], facecolors=color, label=name, **style)
            axis.plot(plain["score"], 100 * plain[what], "*k", markersize=12, label="dense, no filter", zorder=4)
            axis.grid(alpha=0.25)
        below.axhline(100 * ENOUGH, color="black", linewidth=1, linestyle=":")
        below.set_xlabel("mean cosine of the true negatives (harder →)")
    axes[0, 0].set_ylabel("false negatives (% of found)")
    axes[1, 0].set_ylabel("found (% of wanted)")
    figure.suptitle(f"A teacher's filter takes out {' and '.join(removed)} of the false negatives", fontsize=12)
    legend = {"title": f"hollow: fewer than {ENOUGH:.0%} of the wanted negatives found", "fontsize": 9, "ncols": 2}
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", frameon=False, **legend)
    figure.savefig(target, dpi=200, facecolor="white")


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {
            "teachers": option(["minilm"], "one per set: minilm, or the path or Hub id of a cross-encoder"),
            "retriever": option("static", choices=("static", "minilm")),
            "negatives": option(5, "per query"),
            "candidates": option(100, "per query and source"),
            "queries": option([150, 250], "of train and of test, at most"),
            "max-length": option(160, "tokens that a cross-encoder reads"),
        },
        sets="*",
        file=lambda sets: "false-negatives" if sets else "false-negatives-sample",
        repeats=None,
        plot=plot,
    ).run()
