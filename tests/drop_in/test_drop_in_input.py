"""Wrong input to mine_hard_negatives."""

import pytest
from datasets import Dataset, DatasetDict, Features, Value

from hnm_datasets import mine_hard_negatives


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_negatives": 0}, ValueError, "num_negatives"),
        ({"num_negatives": 2.5}, TypeError, "num_negatives"),
        ({"range_min": -1}, ValueError, "range_min"),
        ({"range_min": 10, "range_max": 10}, ValueError, "range_max=10"),
        ({"range_min": 10, "range_max": 5}, ValueError, "range_max=5"),
        ({"range_max": 2, "num_negatives": 3}, ValueError, "num_negatives"),
        ({"output_format": "triplets"}, ValueError, "'triplet'"),
        ({"sampling_strategy": "best"}, ValueError, "'random'"),
        ({"query_prompt_name": "qeury"}, KeyError, "qeury"),
        ({"corpus_prompt_name": "none"}, KeyError, "none"),
        ({"faiss_batch_size": 0}, ValueError, "faiss_batch_size"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"relative_margin": "much"}, (TypeError, ValueError), "margin"),
        ({"max_score": 0.1, "min_score": 0.5}, ValueError, "0.5"),
        ({"corpus": ["text", ""]}, ValueError, "passage 1"),
        ({"corpus": ["text", None]}, ValueError, "passage 1"),
        ({"corpus": [1, 2]}, TypeError, "texts"),
        ({"corpus": "one text"}, TypeError, "list of texts"),
        ({"sampling_strategy": "random", "seed": "x"}, TypeError, "seed"),
        ({"cross_encoder": 3}, TypeError, "CrossEncoder"),
        ({"anchor_column_name": "answer"}, ValueError, "answer"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(few_pairs, static_model, options, error, words):
    with pytest.raises(error, match=words):
        mine_hard_negatives(few_pairs, static_model, verbose=False, **options)


@pytest.mark.parametrize("model", [None, 3, [0.5]], ids=repr)
def test_a_model_of_a_wrong_type(few_pairs, model):
    with pytest.raises(TypeError, match="SentenceTransformer"):
        mine_hard_negatives(few_pairs, model, verbose=False)


def test_a_cross_encoder_is_no_bi_encoder(few_pairs, cross_encoder):
    with pytest.raises(TypeError, match="SentenceTransformer"):
        mine_hard_negatives(few_pairs, cross_encoder, verbose=False)


def test_an_empty_dataset(few_pairs, static_model):
    with pytest.raises(ValueError, match="empty"):
        mine_hard_negatives(few_pairs.select([]), static_model)


def test_one_column(few_pairs, static_model):
    with pytest.raises(ValueError, match="question"):
        mine_hard_negatives(few_pairs.select_columns(["question"]), static_model)


def test_pairs_in_other_forms(few_pairs, static_model):
    wanted = mine_hard_negatives(few_pairs, static_model, num_negatives=1)
    for form in (few_pairs.to_list(), few_pairs.to_pandas(), DatasetDict({"train": few_pairs})):
        assert mine_hard_negatives(form, static_model, num_negatives=1)[:] == wanted[:]
    with pytest.raises(TypeError, match="mine_hard_negatives: dataset is an IterableDataset"):
        mine_hard_negatives(few_pairs.to_iterable_dataset(), static_model)


@pytest.mark.parametrize("column", ["question", "answer"])
@pytest.mark.parametrize("text", [None, "", " \n"], ids=repr)
@pytest.mark.parametrize("count", [1, 3])
def test_a_null_or_empty_text(static_model, column, text, count):
    texts = {"question": ["a?", "b?", "c?"], "answer": ["A.", "B.", "C."]}
    texts[column][0] = text
    features = Features({name: Value("string") for name in texts})
    pairs = Dataset.from_dict({name: values[:count] for name, values in texts.items()}, features=features)
    with pytest.raises(ValueError, match=rf"{column}.*row 0"):
        mine_hard_negatives(pairs, static_model, num_negatives=1)


def test_numbers_are_no_texts(static_model):
    for pairs in ({"question": [1, 2], "answer": ["A.", "B."]}, {"question": ["a?", "b?"], "answer": [1, 2]}):
        with pytest.raises(TypeError, match="strings"):
            mine_hard_negatives(Dataset.from_dict(pairs), static_model, num_negatives=1)


def test_positives_among_the_candidates_change_the_format_with_a_warning(few_pairs, static_model, caplog):
    mine_hard_negatives(few_pairs, static_model, include_positives=True, verbose=False)
    assert "n-tuple" in caplog.text
