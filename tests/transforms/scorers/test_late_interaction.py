"""Late interaction scores: those of the model for each pair, in whatever batches."""

import dataclasses
import pickle

import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from hnm_datasets import BM25Negatives, Corpus, LateInteractionScores, load_sample


@pytest.fixture(scope="module")
def corpus():
    passages = load_sample()[0].to_dataset().select(range(120))
    return Corpus.from_dataset(passages.select_columns(["id", "text"]))


@pytest.fixture(scope="module")
def rows(corpus):
    ids = [corpus[row]["id"] for row in range(0, 60, 5)]
    queries = [" ".join(corpus[one]["text"].split()[2:9]) for one in ids]
    rows = Dataset.from_dict({"query": queries, "positive_ids": [[one] for one in ids]})
    return rows.map(BM25Negatives(corpus, k=7), batched=True)


def both(scored):
    return [
        np.array(line)
        for line in zip(scored["positive_late_scores"], scored["negative_late_scores"], strict=True)
        for line in line
    ]


@pytest.fixture(scope="module")
def model(make_token_model):
    return make_token_model(prompts={"query": "q ", "document": "d "})


def test_scores_are_those_of_the_model(corpus, rows, model):
    scored = rows.map(LateInteractionScores(corpus, model, "late"), batched=True)
    for row in scored:
        asked = model.encode_query([row["query"]])
        for ids, name in (("positive_ids", "positive_late_scores"), ("negative_ids", "negative_late_scores")):
            passages = corpus.texts(corpus.rows(row[ids])).to_pylist()
            # Vectors are kept in float16.
            np.testing.assert_allclose(
                row[name], model.similarity(asked, model.encode_document(passages))[0].numpy(), rtol=1e-3
            )


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5}, {"num_proc": 2}])
def test_scores_do_not_depend_on_the_batch(corpus, rows, model, options):
    step = LateInteractionScores(corpus, model, "late")
    expected = both(rows.map(step, batched=True))
    found = both(rows.map(step, batched=True, load_from_cache_file=False, **options))
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def test_pooled_vectors_can_be_given(corpus, rows, model):
    pooled = corpus.embed_tokens(model, token_pooling=HierarchicalTokenPooling(pool_factor=3))
    plain = rows.map(LateInteractionScores(corpus, model, "late"), batched=True)
    scored = rows.map(LateInteractionScores(corpus, model, "late", embeddings=pooled), batched=True)
    assert scored["positive_late_scores"] != plain["positive_late_scores"]


def test_a_step_is_named_by_what_it_means(corpus, model, make_token_model):
    step = LateInteractionScores(corpus, model, "late")
    same = LateInteractionScores(corpus, make_token_model(), "late", query_prompt="q ", prompt="d ")
    others = [
        LateInteractionScores(corpus, model, "late", query_prompt=""),
        LateInteractionScores(corpus, model, "late", prompt=""),
        LateInteractionScores(corpus, make_token_model(4), "late"),
    ]
    assert Hasher.hash(step) == Hasher.hash(same) == Hasher.hash(pickle.loads(pickle.dumps(step)))
    assert len({Hasher.hash(one) for one in [step, *others]}) == 4
    assert dataclasses.replace(step, name="again").embeddings == step.embeddings


def test_making_a_step_encodes_nothing(corpus, model):
    assert not LateInteractionScores(corpus, model, prompt="never used ").embeddings.are_made


def test_bad_input_is_named(corpus, rows, model, make_token_model, static_model):
    other = Corpus.from_dataset(Dataset.from_dict({"id": ["a"], "text": ["b"]}))
    for kind, message, options in [
        (TypeError, "embeddings must be TokenEmbeddings, got int", {"embeddings": 3}),
        (TypeError, r"corpus\.embed_tokens", {"embeddings": corpus.embed(static_model)}),
        (ValueError, "another corpus", {"embeddings": other.embed_tokens(model)}),
        (ValueError, "another model", {"embeddings": corpus.embed_tokens(make_token_model(4))}),
        (
            ValueError,
            "encoded with the prompt ''",
            {"embeddings": corpus.embed_tokens(model, prompt=""), "prompt": "p"},
        ),
        (ValueError, "name becomes part of", {"name": "No"}),
        (ValueError, "batch_size", {"batch_size": 0}),
    ]:
        with pytest.raises(kind, match=message):
            LateInteractionScores(corpus, model, **options)
    with pytest.raises(TypeError, match=r"got SentenceTransformer\. Use DenseNegatives to mine"):
        LateInteractionScores(corpus, static_model)
    gone = corpus.embed_tokens(model, prompt="gone ")
    gone.discard()
    with pytest.raises(ValueError, match=r"not in the cache directory\. Compute them with corpus\.embed_tokens"):
        LateInteractionScores(corpus, model, embeddings=gone)
    unknown = rows.remove_columns("negative_ids").add_column("negative_ids", [["nowhere"]] * len(rows))
    with pytest.raises(KeyError, match="nowhere"):
        unknown.map(LateInteractionScores(corpus, model), batched=True)
