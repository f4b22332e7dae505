"""Scores by sparse models: those of the miner, and nothing encoded twice."""

import numpy as np
import pytest
from datasets import Dataset

from hnm_datasets import BiEncoderScores, BM25Negatives, Corpus, RandomNegatives, SparseIndex, SparseNegatives

WORDS = [f"w{number}" for number in range(20)]


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 7))) for _ in range(60)]
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{row}" for row in range(60)], "text": texts}))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    queries = [" ".join(rng.choice(WORDS, size=4)) for _ in range(15)]
    positives = [[f"p{row}" for row in rng.permutation(60)[: query % 3]] for query in range(15)]
    return Dataset.from_dict({"query": queries, "positive_ids": positives})


@pytest.fixture(scope="module")
def model(make_sparse_model):
    return make_sparse_model(WORDS, np.linspace(-0.3, 2, 20))


@pytest.mark.parametrize("options", [{}, {"max_active_dims": 2}, {"prompt": "w19 "}, {"query_prompt": "w18 "}], ids=str)
def test_scores_are_those_of_the_miner_to_the_bit(corpus, rows, model, options):
    mined = rows.map(SparseNegatives(corpus, model, k=8, **options), batched=True)
    own = {name: options[name] for name in ("query_prompt",) if name in options}
    step = BiEncoderScores(corpus, model, embeddings=SparseNegatives(corpus, model, **options).index.embeddings, **own)
    scored = [mined.map(step, batched=True)]
    if "max_active_dims" not in options:
        scored.append(mined.map(BiEncoderScores(corpus, model, **options), batched=True))
    for one in scored:
        assert one["negative_teacher_scores"] == one["negative_scores"]
        assert one["positive_teacher_scores"] == one["positive_scores"]


def test_candidates_of_other_sources(corpus, rows, model, make_sparse_model, tmp_path):
    model.save(str(tmp_path / "model"))
    cosine = make_sparse_model(WORDS, similarity_fn_name="cosine")
    for one, path in ((model, str(tmp_path / "model")), (cosine, cosine)):
        mined = rows.map(RandomNegatives(corpus, k=5), batched=True)
        scored = mined.map(BiEncoderScores(corpus, path, name="sparse"), batched=True)
        for row in scored:
            for which in ("positive", "negative"):
                texts = corpus.texts(corpus.rows(row[f"{which}_ids"])).to_pylist() if row[f"{which}_ids"] else ["w0"]
                found = one.encode_document(texts).to_dense().numpy()
                asked = one.encode_query([row["query"]]).to_dense().numpy()[0]
                if one is cosine:
                    found, asked = found / np.linalg.norm(found, axis=1, keepdims=True), asked / np.linalg.norm(asked)
                scores = row[f"{which}_sparse_scores"]
                np.testing.assert_allclose(scores, (found @ asked)[: len(scores)], atol=1e-5)


def test_only_what_is_there_is_encoded_once(corpus, rows):
    seen = []

    def count(texts):
        seen.extend(texts)
        return [[text.split().count(word) for word in WORDS] for text in texts]

    embeddings = corpus.embed_sparse(count, fingerprint="counts-1")
    seen.clear()
    mined = rows.map(BM25Negatives(corpus, k=4), batched=True)
    step = BiEncoderScores(corpus, count, embeddings=embeddings, fingerprint="counts-1")
    scored = mined.map(step, batched=True)
    assert sorted(seen) == sorted(set(rows["query"]))
    mined.map(BiEncoderScores(corpus, count, name="again", embeddings=embeddings, fingerprint="counts-1"), batched=True)
    assert len(seen) == len(set(rows["query"]))
    expected = rows.map(SparseNegatives(corpus, count, k=60, fingerprint="counts-1"), batched=True)
    for row, other in zip(scored, expected, strict=True):
        known = dict(zip(other["negative_ids"], other["negative_scores"], strict=True))
        # A passage without a score above 0 is not found.
        assert row["negative_teacher_scores"] == [known.get(one, 0.0) for one in row["negative_ids"]]


def test_bad_input_is_named(corpus, model, static_model, make_sparse_model):
    sparse, dense = corpus.embed_sparse(model), corpus.embed(static_model)
    with pytest.raises(TypeError, match=r"embeddings must be SparseEmbeddings, got Embeddings.*embed_sparse\(model\)"):
        BiEncoderScores(corpus, model, embeddings=dense)
    with pytest.raises(TypeError, match=r"must be a SparseEncoder.*got SentenceTransformer"):
        BiEncoderScores(corpus, static_model, embeddings=sparse)
    with pytest.raises(ValueError, match="BiEncoderScores: the embeddings were computed with another model"):
        BiEncoderScores(corpus, make_sparse_model(WORDS), embeddings=sparse)
    other = Corpus.from_dataset({"id": ["a"], "text": ["w1"]})
    with pytest.raises(ValueError, match=r"to another corpus\. Pass corpus\.embed_sparse"):
        BiEncoderScores(other, model, embeddings=sparse)
    assert SparseIndex(sparse).corpus == corpus
