import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import BM25Negatives, Corpus, FuseNegatives, RandomNegatives, RelativeMargin, load_sample
from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.transforms.miners.fusion import fuse
from hnm_datasets.transforms.miners.search import Candidates


def candidates(lists):
    """One source's lists of rows, ranked with gaps where something was removed."""
    rows = np.array([row for found in lists for row in found], dtype=np.int64)
    ranks = np.array([2 * place + 1 for found in lists for place in range(len(found))], dtype=np.int32)
    return Candidates(offsets_of(np.array([len(found) for found in lists])), rows, -ranks.astype(np.float32), ranks)


LISTS = st.lists(
    st.permutations(range(8)).flatmap(lambda p: st.integers(0, 8).map(lambda n: p[:n])), min_size=1, max_size=4
)


@given(LISTS, LISTS, st.sampled_from(["rrf", "interleave", "union"]))
def test_fusion_is_what_a_slow_one_gives(first, second, method):
    size = min(len(first), len(second))
    sources = [first[:size], second[:size]]
    fused = fuse([candidates(one) for one in sources], np.arange(8), method)
    for query in range(size):
        part = slice(fused.offsets[query], fused.offsets[query + 1])
        places = [{row: place for place, row in enumerate(one[query])} for one in sources]
        rows = set(places[0]) | set(places[1])

        def key(row, places=places):
            if method == "rrf":
                return -sum(1 / (60 + 2 * found[row] + 1) for found in places if row in found)
            turns = [
                (found[row], s) if method == "interleave" else (s, found[row])
                for s, found in enumerate(places)
                if row in found
            ]
            return min(turns)

        assert fused.rows[part].tolist() == sorted(rows, key=lambda row: (key(row), row))
        for found, ranks in zip(places, fused.ranks[:, part], strict=True):
            assert ranks.tolist() == [2 * found[row] + 1 if row in found else 0 for row in fused.rows[part]]


def test_equal_texts_of_two_sources_are_one_candidate():
    fused = fuse([candidates([[0, 2]]), candidates([[1, 3]])], np.array([0, 0, 2, 3]), "rrf")
    assert fused.rows.tolist() == [0, 2, 3]
    assert fused.ranks.tolist() == [[1, 3, 0], [1, 0, 3]]


@pytest.fixture(scope="module")
def mined():
    corpus, queries = load_sample()
    rows = queries.select(range(0, 600, 40))
    miners = {"bm25": BM25Negatives(corpus, k=8), "random": RandomNegatives(corpus, k=5, seed=2)}
    return corpus, rows, miners


def test_each_source_keeps_its_ranks_and_scores(mined):
    corpus, rows, miners = mined
    fused = rows.map(FuseNegatives(miners), batched=True)
    alone = {name: rows.map(miner, batched=True) for name, miner in miners.items()}
    for place, row in enumerate(fused):
        for name, other in alone.items():
            own = dict(zip(other[place]["negative_ids"], other[place]["negative_ranks"], strict=True))
            scores = dict(zip(other[place]["negative_ids"], other[place]["negative_scores"], strict=True))
            for passage, rank, score in zip(
                row["negative_ids"], row[f"negative_{name}_ranks"], row[f"negative_{name}_scores"], strict=True
            ):
                assert rank == own.get(passage, 0)
                assert passage not in scores or score == scores[passage]
            assert row[f"positive_{name}_scores"] == other[place]["positive_scores"]
        assert row["negative_ranks"] == list(range(1, len(row["negative_ids"]) + 1))
        assert not set(row["negative_ids"]) & set(row["positive_ids"])


def test_sources_are_named(mined):
    _, rows, miners = mined
    for row in rows.map(FuseNegatives(miners), batched=True):
        for source, first, second in zip(
            row["negative_source"], row["negative_bm25_ranks"], row["negative_random_ranks"], strict=True
        ):
            assert source == "+".join(name for name, rank in (("bm25", first), ("random", second)) if rank)


def test_k_takes_the_best(mined):
    _, rows, miners = mined
    every = rows.map(FuseNegatives(miners, method="interleave"), batched=True)
    some = rows.map(FuseNegatives(miners, method="interleave", k=4), batched=True)
    assert [ids[:4] for ids in every["negative_ids"]] == some["negative_ids"][:]


def test_a_margin_can_go_by_one_source(mined):
    _, rows, miners = mined
    fused = rows.map(FuseNegatives(miners), batched=True).map(RelativeMargin(0.2, by="bm25"), batched=True)
    for row in fused:
        assert all(score <= 0.8 * max(row["positive_bm25_scores"]) + 1e-4 for score in row["negative_bm25_scores"])


def test_equal_steps_hash_alike_whatever_the_order_of_their_sources(mined):
    # The order decides who comes first, so these may be unequal; but what is equal must hash alike.
    _, _, miners = mined
    one, other = FuseNegatives(miners), FuseNegatives(dict(reversed(miners.items())))
    assert one != other or hash(one) == hash(other)


def test_wrong_sources_are_refused(mined):
    corpus, _, miners = mined
    other = Corpus.from_dataset(Dataset.from_dict({"id": ["a"], "text": ["x"]}))
    with pytest.raises(ValueError, match="at least two sources"):
        FuseNegatives({"bm25": miners["bm25"]})
    with pytest.raises(TypeError, match="'dense' must be a miner"):
        FuseNegatives({"bm25": miners["bm25"], "dense": "dense"})
    with pytest.raises(ValueError, match="different corpora"):
        FuseNegatives({"bm25": miners["bm25"], "random": RandomNegatives(other)})
    with pytest.raises(ValueError, match="must be a word"):
        FuseNegatives({"bm25": miners["bm25"], "A b": miners["random"]})
    with pytest.raises(ValueError, match="method must be one of"):
        FuseNegatives(miners, method="sum")
