"""Scores of other models: cosines and teachers' scores as computed by hand, and nothing computed twice."""

import math
import re

import numpy as np
import pytest
from datasets import Dataset

from hnm_datasets import BiEncoderScores, BM25Negatives, Corpus, CrossEncoderScores, load_sample

TABLE = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def vectors_of(texts):
    """Look the vector of a text up by its number; a prompt moves on in the table."""
    return TABLE[[int(text.split()[-1]) + 40 * text.count("query: ") + 80 * text.count("passage: ") for text in texts]]


def cosine(query, passage):
    a, b = (vectors_of([text])[0].astype(np.float64) for text in (query, passage))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def shared_words(pairs):
    return [len(set(query.split()) & set(passage.split())) + len(passage) / 1000 for query, passage in pairs]


class Teacher:
    """Scores pairs by their numbers and remembers them; fails after so many calls."""

    def __init__(self, calls=math.inf):
        self.pairs, self.sizes, self.left = [], [], calls

    def __call__(self, pairs):
        if not self.left:
            raise RuntimeError("out of calls")
        self.left -= 1
        self.pairs += pairs
        self.sizes.append(len(pairs))
        return [score_by_hand(*pair) for pair in pairs]


def score_by_hand(query, passage):
    return int(query.split()[-1]) * 100 + int(passage.split()[-1]) / 2


def passage_of(number):
    return f"{'long ' * (number % 7)}passage {number}"


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(
        Dataset.from_dict({"id": [f"p{i}" for i in range(40)], "text": [passage_of(i) for i in range(40)]})
    )


def rows_of(n=12, first=0):
    numbers = range(first, first + n)
    return Dataset.from_dict(
        {
            "query": [f"question {i % 9}" for i in numbers],
            "positive_ids": [[f"p{i}", f"p{i + 1}"][: i % 3] for i in numbers],
            "negative_ids": [[f"p{(5 * i + j) % 40}" for j in range(i % 6)] for i in numbers],
        }
    )


def by_hand(rows, score, part):
    return [[score(row["query"], passage_of(int(name[1:]))) for name in row[f"{part}_ids"]] for row in rows]


def check_scores(scored, name, score):
    for part in ("positive", "negative"):
        found, expected = scored[f"{part}_{name}_scores"][:], by_hand(scored, score, part)
        assert [len(row) for row in found] == [len(row) for row in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def pairs_of(rows):
    names = [(row["query"], name) for row in rows for part in ("positive", "negative") for name in row[f"{part}_ids"]]
    return {(query, passage_of(int(name[1:]))) for query, name in names}


# ---- bi-encoders -----------------------------------------------------------------------------------------------------


def test_teacher_scores_are_cosines(corpus):
    embeddings = corpus.embed(vectors_of, fingerprint="table-8")
    for given in (None, embeddings):
        step = BiEncoderScores(corpus, vectors_of, embeddings=given, fingerprint="table-8")
        check_scores(rows_of().map(step, batched=True, batch_size=5), "teacher", cosine)


def test_with_and_without_embeddings_the_scores_are_the_same(corpus):
    embeddings = corpus.embed(vectors_of, fingerprint="table-8")
    alone = BiEncoderScores(corpus, vectors_of, name="own", fingerprint="table-8")
    with_them = BiEncoderScores(corpus, vectors_of, name="own", embeddings=embeddings, fingerprint="table-8")
    assert rows_of().map(alone, batched=True).to_list() == rows_of().map(with_them, batched=True).to_list()


def test_the_embeddings_say_how_vectors_are_compared(corpus):
    embeddings = corpus.embed(vectors_of, fingerprint="table-8", similarity="euclidean")
    step = BiEncoderScores(corpus, vectors_of, embeddings=embeddings, fingerprint="table-8")
    check_scores(
        rows_of().map(step, batched=True),
        "teacher",
        lambda query, passage: -math.dist(*vectors_of([query, passage]).tolist()),
    )


def test_prompts_go_before_queries_and_passages(corpus):
    step = BiEncoderScores(
        corpus, vectors_of, query_prompt="query: ", prompt="passage: ", name="prompted", fingerprint="table-8"
    )
    check_scores(
        rows_of().map(step, batched=True),
        "prompted",
        lambda query, passage: cosine("query: " + query, "passage: " + passage),
    )


def test_a_bi_encoder_encodes_each_text_once_and_only_what_is_there(corpus):
    seen = []

    def counting(texts):
        seen.extend(texts)
        return vectors_of(texts)

    step = BiEncoderScores(corpus, counting, fingerprint="counting-8")
    rows = rows_of()
    rows.map(step, batched=True, batch_size=4)
    expected = {text for pair in pairs_of(rows) for text in pair}
    assert expected <= set(seen)
    assert set(seen) <= expected | set(rows["query"])
    assert len(seen) == len(set(seen)) < len(corpus)
    seen.clear()
    rows.map(BiEncoderScores(corpus, counting, "again", fingerprint="counting-8"), batched=True)
    assert seen == []


def test_a_model_scores_what_bm25_mined(static_model):
    corpus, queries = load_sample()
    rows = queries.select(range(0, 600, 60)).map(BM25Negatives(corpus, k=6), batched=True)
    scored = rows.map(BiEncoderScores(corpus, static_model), batched=True)
    for row in scored:
        for part in ("positive", "negative"):
            texts = corpus.texts(corpus.rows(row[f"{part}_ids"])).to_pylist()
            expected = static_model.similarity(static_model.encode(row["query"]), static_model.encode(texts))[0]
            np.testing.assert_allclose(row[f"{part}_teacher_scores"], expected, atol=1e-5)
    assert scored["negative_ids"][:] == rows["negative_ids"][:]
    assert scored["negative_scores"][:] == rows["negative_scores"][:]


def test_bi_encoder_options_are_checked(corpus):
    other = Corpus.from_dataset(Dataset.from_dict({"id": ["a"], "text": ["passage 1"]}))
    with pytest.raises(ValueError, match="the embeddings belong to another corpus"):
        BiEncoderScores(
            corpus, vectors_of, embeddings=other.embed(vectors_of, fingerprint="table-8"), fingerprint="table-8"
        )
    with pytest.raises(ValueError, match="the embeddings were computed with another model"):
        BiEncoderScores(
            corpus, vectors_of, embeddings=corpus.embed(vectors_of, fingerprint="table-8"), fingerprint="table-9"
        )
    with pytest.raises(TypeError, match=r"embeddings must be Embeddings, got ndarray.*corpus\.embed\(model\)"):
        BiEncoderScores(corpus, vectors_of, embeddings=TABLE, fingerprint="table-8")
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        BiEncoderScores(corpus, vectors_of, batch_size=0, fingerprint="table-8")


# ---- cross-encoders --------------------------------------------------------------------------------------------------


def test_each_distinct_pair_is_scored_once(corpus):
    rows, teacher = rows_of(), Teacher()
    scored = rows.map(CrossEncoderScores(corpus, teacher, fingerprint="once-1"), batched=True)
    check_scores(scored, "teacher", score_by_hand)
    assert len(teacher.pairs) == len(set(teacher.pairs))
    assert set(teacher.pairs) == pairs_of(rows)
    assert sum(len(row) for row in rows["negative_ids"]) + sum(len(row) for row in rows["positive_ids"]) > len(
        teacher.pairs
    )


def test_nothing_is_scored_again(corpus):
    rows = rows_of()
    rows.map(CrossEncoderScores(corpus, Teacher(), fingerprint="again-1"), batched=True)
    teacher = Teacher()
    again = CrossEncoderScores(corpus, teacher, "other_name", fingerprint="again-1")
    check_scores(rows.map(again, batched=True, batch_size=3), "other_name", score_by_hand)
    assert teacher.pairs == []
    more = rows_of(8, first=8)
    check_scores(more.map(again, batched=True), "other_name", score_by_hand)
    assert set(teacher.pairs) == pairs_of(more) - pairs_of(rows)
    assert len(teacher.pairs) == len(set(teacher.pairs))
    renamed = Teacher()
    rows.map(CrossEncoderScores(corpus, renamed, fingerprint="again-2"), batched=True)
    assert set(renamed.pairs) == pairs_of(rows)


def test_pairs_come_longest_first_over_all_rows(corpus):
    teacher = Teacher()
    CrossEncoderScores(corpus, teacher, batch_size=1, fingerprint="long-1")(rows_of(30)[:])
    lengths = [len(query) + len(passage) for query, passage in teacher.pairs]
    assert lengths == sorted(lengths, reverse=True)
    assert len(teacher.sizes) > 1
    assert len(set(teacher.sizes[:-1])) == 1


def test_a_run_that_was_stopped_goes_on_where_it_was(corpus):
    rows, stopped, teacher = rows_of(36), Teacher(calls=2), Teacher()
    with pytest.raises(RuntimeError, match="out of calls"):
        CrossEncoderScores(corpus, stopped, batch_size=1, fingerprint="stopped-1")(rows[:])
    assert 0 < len(stopped.pairs) < len(pairs_of(rows))
    scored = rows.map(CrossEncoderScores(corpus, teacher, fingerprint="stopped-1"), batched=True)
    check_scores(scored, "teacher", score_by_hand)
    assert sorted(stopped.pairs + teacher.pairs) == sorted(pairs_of(rows))


def test_query_and_passage_do_not_change_places():
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b"], "text": ["text 1", "text 2"]}))
    rows = {"query": ["text 1", "text 2"], "positive_ids": [["b"], ["a"]], "negative_ids": [[], []]}
    answer = CrossEncoderScores(corpus, Teacher(), fingerprint="places-1")(rows)
    assert answer["positive_teacher_scores"] == [[101.0], [200.5]]


def test_rows_without_candidates(corpus):
    teacher = Teacher()
    rows = {"query": ["question 1"], "positive_ids": [[]], "negative_ids": [[]]}
    for step in (
        CrossEncoderScores(corpus, teacher, fingerprint="empty-1"),
        BiEncoderScores(corpus, vectors_of, "teacher", fingerprint="table-8"),
    ):
        assert step(rows) == {"positive_teacher_scores": [[]], "negative_teacher_scores": [[]]}
    assert teacher.pairs == []


def test_a_score_that_is_no_number_names_the_pair(corpus):
    def broken(pairs):
        return [math.nan if passage.endswith("passage 3") else 1.0 for _, passage in pairs]

    step = CrossEncoderScores(corpus, broken, fingerprint="broken-1")
    rows = {"query": ["question 1"], "positive_ids": [["p2"]], "negative_ids": [["p3"]]}
    with pytest.raises(
        ValueError, match=r"NaN or infinite for the query 'question 1' and the passage 'long .*passage 3'"
    ):
        step(rows)
    # The bad score was not kept.
    fixed = CrossEncoderScores(corpus, lambda pairs: [2.0] * len(pairs), fingerprint="broken-1")
    assert fixed(rows)["negative_teacher_scores"] == [[2.0]]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda pairs: [1.0], r"\(1,\)"),
        (lambda pairs: [[0.0, 1.0]] * len(pairs), r"\(2, 2\)"),
        (lambda pairs: 1, r"\(\)"),
    ],
)
def test_a_wrong_number_of_scores_is_refused(corpus, model, shape):
    step = CrossEncoderScores(corpus, model, fingerprint="few-1")
    with pytest.raises(ValueError, match=rf"one score for each of 2 pairs, got .*{shape}"):
        step({"query": ["question 1"], "positive_ids": [["p2"]], "negative_ids": [["p3"]]})


@pytest.mark.parametrize("step", [BiEncoderScores, CrossEncoderScores])
@pytest.mark.parametrize("name", ["", "score", "two words", "Upper", "1st", "a-b", None, 3])
def test_names_are_words(corpus, step, name):
    with pytest.raises(
        ValueError, match=f"{step.__name__}: name becomes part of .* must be a word.*got {re.escape(repr(name))}"
    ):
        step(corpus, shared_words, name, fingerprint="shared-1")


@pytest.mark.parametrize("step", [BiEncoderScores, CrossEncoderScores])
def test_models_and_rows_are_checked(corpus, step):
    with pytest.raises(TypeError, match="corpus must be a Corpus, got list"):
        step(["passage 1"], shared_words, fingerprint="shared-1")
    with pytest.raises(ValueError, match=r"Name it with fingerprint='\.\.\.'"):
        step(corpus, shared_words)
    with pytest.raises(TypeError, match=r"model must be a (SentenceTransformer|CrossEncoder), its path or Hub id"):
        step(corpus, 3)
    made = step(corpus, shared_words, fingerprint="shared-1")
    rows = {"query_id": ["q7"], "query": ["question 1"], "positive_ids": [["p2"]], "negative_ids": [["x"]]}
    with pytest.raises(KeyError, match=r"'negative_ids' of the row with query_id 'q7' names the passage 'x'"):
        made(rows)
    del rows["negative_ids"]
    with pytest.raises(KeyError, match=r"'negative_ids'.*mine first"):
        made(rows)


def test_a_bi_encoder_is_no_teacher(corpus, static_model):
    with pytest.raises(TypeError, match="model must be a CrossEncoder"):
        CrossEncoderScores(corpus, static_model)


# ---- a real cross-encoder --------------------------------------------------------------------------------------------


def tiny_cross_encoder(folder, labels=1):
    """Save a small BERT with random weights, and return its path."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "passage", "question", "long", *map(str, range(40))]
    folder.mkdir()
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=labels,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    return str(folder)


def test_a_cross_encoder_scores_as_it_predicts(corpus, tmp_path):
    from sentence_transformers import CrossEncoder

    path = tiny_cross_encoder(tmp_path / "tiny")
    model = CrossEncoder(path, device="cpu")
    rows = rows_of()
    scored = rows.map(CrossEncoderScores(corpus, model), batched=True)
    check_scores(scored, "teacher", lambda query, passage: float(model.predict([(query, passage)])[0]))
    assert np.ptp([score for row in scored["negative_teacher_scores"] for score in row]) > 0.01
    from_path = CrossEncoderScores(corpus, path)
    assert rows.map(from_path, batched=True, num_proc=2).to_list() == scored.to_list()


def test_a_cross_encoder_that_was_changed_needs_a_new_step(corpus, tmp_path):
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(tiny_cross_encoder(tmp_path / "tiny"), device="cpu")
    step = CrossEncoderScores(corpus, model)
    rows = rows_of()
    before = step(rows[:])
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.5)
    with pytest.raises(RuntimeError, match="model has changed since the step was created"):
        step({"query": ["question 39"], "positive_ids": [["p2"]], "negative_ids": [["p3"]]})
    # Even where all scores are known: old ones would be taken for those of the new weights.
    with pytest.raises(RuntimeError, match="model has changed since the step was created"):
        rows.map(step, batched=True)
    assert CrossEncoderScores(corpus, model)(rows[:]) != before


def test_a_cross_encoder_with_several_outputs_is_refused(corpus, tmp_path):
    path = tiny_cross_encoder(tmp_path / "three", labels=3)
    with pytest.raises(ValueError, match=r"has 3 outputs per pair, but a teacher must have one. Pass a function"):
        CrossEncoderScores(corpus, path)


def test_the_activation_is_explicit_and_part_of_the_name(corpus, tmp_path):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(tiny_cross_encoder(tmp_path / "tiny"), device="cpu")
    steps = {name: CrossEncoderScores(corpus, model, activation=name) for name in ("sigmoid", "none", "model")}
    rows = rows_of(4)
    logits, shares, own = (
        np.array(rows.map(steps[name], batched=True)["negative_teacher_scores"][0])
        for name in ("none", "sigmoid", "model")
    )
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), shares, atol=1e-6)
    np.testing.assert_allclose(own, shares, atol=1e-6)
    assert len({step.model.fingerprint for step in steps.values()}) == 3


def test_half_precision_is_near_and_has_a_name_of_its_own(corpus, tmp_path):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(tiny_cross_encoder(tmp_path / "tiny"), device="cpu")
    full, half = (CrossEncoderScores(corpus, model, dtype=dtype) for dtype in (None, "bfloat16"))
    a, b = (np.array(rows_of(4).map(step, batched=True)["negative_teacher_scores"][0]) for step in (full, half))
    np.testing.assert_allclose(a, b, atol=0.02)
    assert full.model.fingerprint != half.model.fingerprint


def test_a_function_has_no_activation(corpus):
    with pytest.raises(ValueError, match="activation and dtype apply only to models"):
        CrossEncoderScores(corpus, shared_words, activation="sigmoid", fingerprint="shared")
    with pytest.raises(ValueError, match="activation must be one of"):
        CrossEncoderScores(corpus, shared_words, activation="softmax", fingerprint="shared")
