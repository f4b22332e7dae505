"""`audit_negatives`: check mined negatives without training on them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import kept_offsets
from hnm_datasets.audit.audited_batch import describer
from hnm_datasets.audit.counting import Found
from hnm_datasets.audit.defects import false_negative_defect, found_defects
from hnm_datasets.audit.false_negatives import FalseNegatives, estimate
from hnm_datasets.audit.judgments import Judgments
from hnm_datasets.audit.reading import given_rows, is_among, iter_rows, query_keys, texts_of
from hnm_datasets.audit.report import Audit
from hnm_datasets.audit.sampled import Sampled, draw_sample
from hnm_datasets.audit.spread import Spread
from hnm_datasets.audit.tally import Tally, counts_per_row, false_by_teacher
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.formats.base import Layout, QueryRows
from hnm_datasets.formats.registry import recognize
from hnm_datasets.rows import Rows
from hnm_datasets.transforms.base import Transform

#: The number of rows that a teacher step scores.
_JUDGED_ROWS = 1_000
_NAME = "audit_negatives"


def audit_negatives(
    dataset: Rows,
    corpus: Corpus | None = None,
    *,
    judgments: Rows | None = None,
    teacher: str | Transform | None = None,
    threshold: float | None = None,
    near_duplicates_from: float = 0.8,
    sample: int = 10_000,
    seed: int = 0,
) -> Audit:
    """Audit mined negatives: find defects, measure hardness, and estimate how many negatives are relevant.

    The format is recognized by its columns, see `hnm_datasets.formats`: the rows of the miners, the four formats of
    sentence-transformers, and those of Tevatron, FlagEmbedding and DPR. Defects are counted over all rows. Texts and
    scores are analyzed on a sample.

    False negatives count as a defect if more than 5% of the negatives are relevant according to the judgments or the
    teacher. A passage counts as a hub if it is a negative of at least 20 queries and of at least twenty times the
    average over all negatives; or, with ten queries or more, of at least half of the queries and at least twice the
    average.

    Args:
        dataset: Mined rows: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
        corpus: The passages. Needed for texts if the rows have only ids, and to find passages that are not in it.
        judgments: The relevant passages, to count false negatives: `query_id`, `corpus_id` (or BEIR's `query-id`,
            `corpus-id`) and `score` (relevant above 0); or rows with `positive_ids`, as returned by `load_beir` and
            `hide_positives`. Repeated judgments count once.
        teacher: The teacher whose scores estimate false negatives, if there are no judgments: the name of score columns
            in the rows, or a step such as `CrossEncoderScores(corpus, model)`, which scores 1,000 rows. None: the
            scores named `"teacher"`, if present.
        threshold: A negative counts as relevant if the teacher scores it at least this high; None: at least as high as
            the mean of the positives of its row.
        near_duplicates_from: The similarity from which two texts count as near duplicates, see `DropNearDuplicates`.
        sample: The maximum number of rows for the analysis of texts and scores; fewer if rows have hundreds of
            passages.
        seed: Seed for the sample.

    Returns:
        An `Audit`: it prints as tables, shows HTML in a notebook, and has `.to_dict()`, `.to_markdown()` and
        `.defects`.

    Raises:
        KeyError: The format is not recognized, a column is missing (the message names the recognized format), or the
            rows have no scores of the named teacher.
        TypeError: `dataset` has the wrong type.
        ValueError: There are no rows, no query is judged, or a passage is judged both relevant and not relevant to the
            same query.

    Example:
        >>> triplets = {"anchor": ["a?", "a?", "b?"], "positive": ["A.", "A.", "B."], "negative": ["B.", "a.", "C."]}
        >>> audit = audit_negatives(Dataset.from_dict(triplets))
        >>> [(defect.name, defect.count) for defect in audit.defects]
        [('duplicates-of-positives', 1)]
        >>> audit.form, audit.queries, audit.positives_elsewhere
        ('triplets', 2, 0.5)
    """
    dataset = given_rows(_NAME, dataset)
    if corpus is not None:
        check_corpus(_NAME, corpus)
    near_from = checks.real_number(_NAME, "near_duplicates_from", near_duplicates_from, above=0.0)
    sample = checks.whole_number(_NAME, "sample", sample, low=1)
    seed = checks.whole_number(_NAME, "seed", seed, low=0)
    if threshold is not None:
        threshold = checks.real_number(_NAME, "threshold", threshold)
    if not isinstance(teacher, (str, Transform, type(None))):
        raise TypeError(f"{_NAME}: teacher must be the name of scores or a scoring step, got {type(teacher).__name__}.")
    form = recognize(dataset.column_names, _NAME)
    if isinstance(teacher, Transform) and corpus is None:
        raise ValueError(f"{_NAME}: a step as teacher needs the corpus: {_NAME}(dataset, corpus, teacher=...).")
    if isinstance(teacher, str):
        _check_scored(teacher, threshold, first_row(dataset, form))
    judged = None
    if judgments is not None:
        judged = Judgments(
            judgments,
            corpus,
            by_query_id=form.query_id is not None,
            by_passage_id=first_row(dataset, form).negatives.ids is not None,
            rows_are_keys=form.format.needs_corpus and corpus is not None,
            owner=_NAME,
        )
    name = "" if isinstance(teacher, Transform) else teacher or "teacher"
    tally = Tally(dataset, form, corpus, judged, name, threshold, _NAME).run()
    n_negatives = int(tally.negatives_per_row.sum(dtype=np.int64))
    n_rows = len(dataset)
    drawn = draw_sample(dataset, sample, n_negatives / n_rows, tally.n_positives / n_rows, seed)
    sampled = Sampled(drawn, form, corpus, near_from, tally.is_positive, _NAME).run(
        (n_negatives + tally.n_positives) / n_rows
    )
    examples, looked_in = tally.teacher_false, n_rows
    if judged is not None:
        false_negatives, examples = _by_judgments(tally, judged), tally.judged_false
    elif isinstance(teacher, Transform) and corpus is not None:
        looked_in = min(len(drawn), _JUDGED_ROWS)
        false_negatives, examples = _by_asking(teacher, drawn, form, corpus, threshold, seed)
    else:
        false, known = tally.teacher_per_row
        false_negatives = estimate(name, _rule(threshold), tally.queries, false, known)
    per, counts = "row", tally.negatives_per_row
    if form.format.one_negative:
        per, counts = "query", tally.negatives_per_query
    order = np.argsort(-tally.negatives.counts, kind="stable")[:3]
    hubs = zip(tally.name_of(tally.negatives.keys[order]), tally.negatives.counts[order].tolist(), strict=True)
    overlap = {
        what: float(sampled.values(what).mean())
        for what in ("query in positive", "query in negative", "positive and negative")
        if len(sampled.values(what))
    }
    words = {side: sampled.spread(f"{side} words") for side in ("positive", "negative")}
    return Audit(
        form=form.format.name,
        recognized=form.describe(),
        rows=n_rows,
        queries=len(np.unique(tally.queries)),
        positives=tally.n_positives,
        negatives=n_negatives,
        passages=len(tally.negatives.keys),
        corpus=None if corpus is None else len(corpus),
        sampled_rows=len(drawn),
        per=per,
        per_row=Spread.of(counts),
        short_rows=int((counts < counts.max()).sum()),
        sources=tally.sources,
        scores=sampled.scores(tally.scores),
        ranks=sampled.spread("ranks"),
        hubs=tuple(hubs),
        positives_elsewhere=float(is_among(tally.positives.keys, tally.negatives.keys).mean())
        if len(tally.positives.keys)
        else 0.0,
        overlap=overlap,
        words={side: spread for side, spread in words.items() if spread is not None},
        false_negatives=false_negatives,
        defects=(
            *false_negative_defect(false_negatives, examples.examples, looked_in),
            *found_defects(tally, tally.found | sampled.found, len(drawn)),
        ),
    )


def first_row(dataset: Dataset, form: Layout) -> QueryRows:
    """Read the first row, to see whether the rows have ids and scores."""
    return form.read(Batch(dataset.with_format("arrow")[:1], step=_NAME))


def _check_scored(teacher: str, threshold: float | None, rows: QueryRows) -> None:
    of_negatives, of_positives = rows.negatives.scores.keys(), rows.positives.scores.keys()
    usable = of_negatives if threshold is not None else of_negatives & of_positives
    if teacher in usable:
        return
    lacking = " of positives (needed without threshold=)" if teacher in of_negatives else ""
    raise KeyError(
        f"{_NAME}: the rows have no scores{lacking} by {teacher!r}; available: {sorted(usable)}. Score first, for "
        f"example with .map(CrossEncoderScores(corpus, model, name={teacher!r}), batched=True)."
    )


def _rule(threshold: float | None) -> str:
    return "scored as high as the positives" if threshold is None else f"scored {threshold:g} or higher"


def _by_judgments(tally: Tally, judged: Judgments) -> FalseNegatives | None:
    # The negatives of other queries are unjudged; counting them as not relevant would make the rate too low.
    known = is_among(tally.queries, judged.queries)
    if not known.any():
        raise ValueError(
            f"{_NAME}: no query of the dataset is in the judgments. Check that both use the same queries or ids. The "
            f"first row is: {tally.describe_first_row()}."
        )
    negatives = np.where(known, tally.negatives_per_row, 0)
    rule = "judged relevant"
    if not judged.has_new_positives(np.unique(tally.queries), tally.positive_pairs, tally.positive_texts):
        rule = "judged relevant; the judgments have only the rows' own positives"
    return estimate("judgments", rule, tally.queries, tally.false_per_row, negatives)


def _by_asking(
    teacher: Transform, drawn: Dataset, form: Layout, corpus: Corpus, threshold: float | None, seed: int
) -> tuple[FalseNegatives | None, Found]:
    """Score some rows with a step; return the share of false negatives, and examples."""
    if len(drawn) > _JUDGED_ROWS:
        drawn = drawn.select(np.random.default_rng(seed).choice(len(drawn), _JUDGED_ROWS, replace=False))
    name = str(getattr(teacher, "name", "teacher"))
    queries, counts, found = [], [], Found()
    for rows in iter_rows(drawn, form, _NAME):
        columns = {QUERY: rows.queries, POSITIVE_IDS: _ids(rows, corpus, 0), NEGATIVE_IDS: _ids(rows, corpus, 1)}
        scored = teacher(pa.table(columns))
        scored_rows = recognize(scored.column_names, _NAME).read(Batch(scored, step=_NAME))
        if name not in scored_rows.negatives.scores:
            raise ValueError(f"{_NAME}: the teacher {type(teacher).__name__} wrote no scores named {name!r}.")
        queries.append(query_keys(rows))
        false, known = false_by_teacher(scored_rows, name, threshold)
        found.add(false, describer(scored_rows, "negative", corpus))
        counts.append(counts_per_row(scored_rows, false, known))
    false, known = np.concatenate(counts, axis=1)
    return estimate(name, _rule(threshold), np.concatenate(queries), false, known), found


def _ids(rows: QueryRows, corpus: Corpus, part: int) -> pa.ListArray:
    """Return the passages of one side as lists of corpus ids, without passages that are not in the corpus."""
    side = (rows.positives, rows.negatives)[part]
    texts = texts_of(side, None)
    found = corpus.find(side.ids) if texts is None else corpus.find_texts(texts.to_pylist())
    return list_array(kept_offsets(side.offsets, found >= 0), corpus.ids(found[found >= 0]))
