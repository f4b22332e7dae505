"""Live negatives: which rows and texts they give, what decides the draw, and what the stock trainer sees of them."""

import copy
import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from hnm_datasets import Corpus
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.labels import PADDING, unpack
from hnm_datasets.training.live import LiveNegatives, live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import FollowEpochs

PASSAGES, QUERIES = 60, 24

# Two cores, or one, are enough for two small workers.
pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def text_of(row):
    """The text of a passage; those of the last five are those of the first."""
    return f"p{row if row < PASSAGES - 5 else row - PASSAGES + 5} of sixty"


def is_alone(name):
    """Whether no other passage has this one's text."""
    return 5 <= int(name.removeprefix("id")) < PASSAGES - 5


@pytest.fixture(scope="module")
def corpus():
    ids = [f"id{row}" for row in range(PASSAGES)]
    return Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": [text_of(row) for row in range(PASSAGES)]}))


def make_rows(candidates=8, queries=QUERIES, seed=0, positives=(1, 2, 3)):
    """Queries with some positives each, and candidates that are none of them; and a teacher's scores."""
    rng = np.random.default_rng(seed)
    rows = []
    for query in range(queries):
        own = positives[query % len(positives)]
        ids = [f"id{row}" for row in rng.permutation(PASSAGES - 5)]
        rows.append(
            {
                "query_id": f"query{query}",
                "query": f"q{query}",
                "positive_ids": ids[:own],
                "negative_ids": ids[own : own + candidates],
                "positive_teacher_scores": rng.normal(size=own).astype(np.float32).tolist(),
                "negative_teacher_scores": rng.normal(size=candidates).astype(np.float32).tolist(),
            }
        )
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def rows():
    return make_rows()


def known(labels, n):
    """The label of one row."""
    return unpack(torch.tensor([labels]), 1 + n)


# ---- rows and texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positives", ["each", "first"])
def test_a_row_for_each_query_and_positive_in_order(corpus, rows, positives):
    live = live_negatives(rows, corpus, n=3, positives=positives)
    assert isinstance(live, LiveNegatives)
    expected = [
        (row["query"], corpus[name]["text"])
        for row in rows
        for name in (row["positive_ids"] if positives == "each" else row["positive_ids"][:1])
    ]
    assert len(live) == len(expected)
    assert [(row["anchor"], row["positive"]) for row in live] == expected
    assert list(live[0]) == ["anchor", "positive", "negative_1", "negative_2", "negative_3", "label"]
    assert list(live[:2]) == list(live[0])


@pytest.mark.parametrize("n", [1, 3, 8])
def test_negatives_are_candidates_of_the_row_without_repetition_in_their_order(corpus, rows, n):
    live = live_negatives(rows, corpus, n=n)
    owners = [row for row in rows for _ in row["positive_ids"]]
    for epoch in range(3):
        live.set_epoch(epoch)
        for row, owner in zip(live, owners, strict=True):
            texts = [corpus[name]["text"] for name in owner["negative_ids"]]
            places = [texts.index(row[f"negative_{place + 1}"]) for place in range(n)]
            assert places == sorted(set(places))


def test_the_order_of_candidates_that_are_not_sorted_is_kept(corpus):
    row = {"query": "q0", "positive_ids": ["id1"], "negative_ids": ["id9", "id3", "id30", "id2", "id17"]}
    live = live_negatives(Dataset.from_list([row]), corpus, n=5)
    assert [live[0][f"negative_{place}"] for place in range(1, 6)] == [corpus[i]["text"] for i in row["negative_ids"]]


def test_a_query_without_positives_has_no_row_and_the_others_keep_theirs(corpus):
    rows = make_rows(positives=(0, 2, 1))
    live = live_negatives(rows, corpus, n=2)
    assert live["anchor"][:] == [row["query"] for row in rows for _ in row["positive_ids"]]
    nulls = Dataset.from_dict({"query": ["a", "b"], "positive_ids": [None, ["id1"]], "negative_ids": [["id2"], None]})
    live = live_negatives(nulls, corpus, n=1)
    assert live["anchor"][:] == ["b"]
    assert known(live[0]["label"], 1).passages[0, 1] == PADDING


def test_every_candidate_is_equally_likely(corpus):
    rows = make_rows(candidates=6, queries=10, positives=(2,))
    live, epochs = live_negatives(rows, corpus, n=2), 400
    places = np.zeros((len(live), 6), dtype=int)
    pairs = Counter()
    owners = [[corpus[name]["text"] for name in row["negative_ids"]] for row in rows for _ in row["positive_ids"]]
    for epoch in range(epochs):
        live.set_epoch(epoch)
        batch = live[:]
        for row, texts in enumerate(owners):
            drawn = tuple(texts.index(batch[f"negative_{place}"][row]) for place in (1, 2))
            places[row, list(drawn)] += 1
            pairs[drawn] += 1
    # Of each row 400·2/6 are expected, with a deviation of 9.4; of all rows together 2,667 with 42.
    assert np.abs(places - epochs / 3).max() < 4.5 * 9.4
    assert np.abs(places.sum(axis=0) - epochs * len(live) / 3).max() < 4 * 42
    assert set(pairs) == set(itertools.combinations(range(6), 2))
    expected = epochs * len(live) / 15
    assert max(abs(count - expected) for count in pairs.values()) < 4.5 * expected**0.5


# ---- what decides the draw -------------------------------------------------------------------------------------------


def whole(live):
    """All rows, as a list of dicts."""
    return [live[row] for row in range(len(live))]


def test_access_does_not_matter(corpus, rows):
    live = live_negatives(rows, corpus, n=3)
    live.set_epoch(2)
    expected = whole(live)
    size = len(live)
    assert [dict(zip(live[:], row, strict=True)) for row in zip(*live[:].values(), strict=True)] == expected
    order = np.random.default_rng(0).permutation(size).tolist()
    batch = live[order]
    assert [{name: batch[name][place] for name in batch} for place in range(size)] == [expected[row] for row in order]
    assert live.__getitems__(order) == [expected[row] for row in order]
    assert live[-1] == expected[-1]
    assert live[5:5]["anchor"] == []
    assert list(live) == expected
    assert [row for batch in live.iter(7) for row in batch["anchor"]] == [row["anchor"] for row in expected]
    assert live[[4, 4, 0]]["label"] == [expected[4]["label"], expected[4]["label"], expected[0]["label"]]
    picked = live.select([5, 3, 8])
    assert [picked[row] for row in range(3)] == [expected[row] for row in (5, 3, 8)]
    shuffled = live.shuffle(seed=1)
    assert sorted(map(str, whole(shuffled))) == sorted(map(str, expected))
    assert whole(live.select(range(4))) == expected[:4]
    assert whole(pickle.loads(pickle.dumps(live))) == expected
    assert whole(copy.deepcopy(live)) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_a_dataloader_draw_the_same(corpus, rows, workers):
    live = live_negatives(rows, corpus, n=3)
    context = "fork" if workers else None
    for epoch in (0, 1):
        live.set_epoch(epoch)
        expected = whole(live)
        loader = DataLoader(live, batch_size=5, num_workers=workers, multiprocessing_context=context, collate_fn=list)
        assert [row for batch in loader for row in batch] == expected


def test_workers_that_stay_see_the_epoch(corpus, rows):
    live = live_negatives(rows, corpus, n=3)
    loader = DataLoader(
        live, batch_size=5, num_workers=2, persistent_workers=True, multiprocessing_context="fork", collate_fn=list
    )
    seen = []
    for epoch in (0, 1, 0):
        live.set_epoch(epoch)
        seen.append([row for batch in loader for row in batch])
        assert seen[-1] == whole(live)
    assert seen[0] == seen[2] != seen[1]


def test_another_epoch_seed_or_positive_draws_others_and_the_same_ones_draw_the_same(corpus, rows):
    def draw(epoch, **options):
        live = live_negatives(rows, corpus, n=3, **options)
        live.set_epoch(epoch)
        return [[row[f"negative_{place}"] for place in (1, 2, 3)] for row in live]

    first = draw(0)
    assert draw(0) == first
    draws = [first, draw(1), draw(2), draw(0, seed=1), draw(1, seed=1)]
    for one, other in itertools.combinations(draws, 2):
        assert np.mean([a == b for a, b in zip(one, other, strict=True)]) < 0.2
    live = live_negatives(rows, corpus, n=3)
    live.set_epoch(5)
    assert whole(live) != whole(live_negatives(rows, corpus, n=3))
    live.set_epoch(0)
    assert [[row[f"negative_{place}"] for place in (1, 2, 3)] for row in live] == first
    # Rows of one query draw apart.
    owners = [row["query"] for row in rows for _ in row["positive_ids"]]
    pairs = zip(itertools.pairwise(first), itertools.pairwise(owners), strict=True)
    same = [one == other for (one, other), (query, after) in pairs if query == after]
    assert len(same) > 20
    assert np.mean(same) < 0.2


def test_the_draw_goes_by_the_row_and_not_by_its_place(corpus, rows):
    whole_set, backwards = (live_negatives(one, corpus, n=3) for one in (rows, rows.select(range(QUERIES - 1, -1, -1))))
    assert sorted(map(str, whole(whole_set))) == sorted(map(str, whole(backwards)))
    some = live_negatives(rows.select(range(4, 9)), corpus, n=3)
    assert {str(row) for row in whole(some)} <= {str(row) for row in whole(whole_set)}


def test_two_sets_of_rows_have_epochs_of_their_own(corpus, rows):
    one, other = live_negatives(rows, corpus, n=3), live_negatives(rows, corpus, n=3)
    before = whole(one)
    other.set_epoch(3)
    assert whole(one) == before
    assert whole(other) != before


# ---- short rows ------------------------------------------------------------------------------------------------------


def test_short_rows_are_filled_with_passages_that_are_no_positives(corpus):
    rows = make_rows(candidates=2, queries=12)
    live = live_negatives(rows, corpus, n=5)
    owners = [row for row in rows for _ in row["positive_ids"]]
    texts = {text_of(row) for row in range(PASSAGES)}
    fillers = Counter()
    for epoch in range(30):
        live.set_epoch(epoch)
        for row, owner in zip(live, owners, strict=True):
            labels = known(row["label"], 5)
            assert labels.passages[0, :3].tolist().count(PADDING) == 0
            assert labels.passages[0, 3:].tolist() == [PADDING] * 3
            assert [row["negative_1"], row["negative_2"]] == [corpus[name]["text"] for name in owner["negative_ids"]]
            drawn = [row[f"negative_{place}"] for place in (3, 4, 5)]
            assert set(drawn) <= texts
            assert not set(drawn) & {corpus[name]["text"] for name in owner["positive_ids"] if is_alone(name)}
            fillers.update(drawn)
    assert len(fillers) == PASSAGES - 5
    assert max(fillers.values()) < 5 * min(fillers.values())


def test_padding_is_no_copy_of_a_positive_either(corpus):
    """The stock loss takes padding for negatives: it must not be the positive's own text under another id."""
    rows = Dataset.from_dict({"query": ["q0"], "positive_ids": [["id0", "id1"]], "negative_ids": [[]]})
    live = live_negatives(rows, corpus, n=8)
    drawn = set()
    for epoch in range(40):
        live.set_epoch(epoch)
        drawn |= {row[f"negative_{place}"] for row in live for place in range(1, 9)}
    assert not drawn & {text_of(0), text_of(1)}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_corpus_smaller_than_the_row(size):
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": list("abc")[:size], "text": ["A", "B", "C"][:size]}))
    rows = Dataset.from_dict({"query": ["x"], "positive_ids": [["a"]], "negative_ids": [["b"] if size > 1 else []]})
    row = live_negatives(rows, corpus, n=6)[0]
    labels = known(row["label"], 6).passages[0].tolist()
    assert labels[1 + (size > 1) :] == [PADDING] * (6 - (size > 1))
    assert all(row[f"negative_{place}"] for place in range(1, 7))


def test_rows_that_were_not_mined_are_padding_alone(corpus, rows):
    plain = rows.select_columns(["query", "positive_ids"])
    live = live_negatives(plain, corpus, n=2)
    for row in live:
        labels = known(row["label"], 2)
        assert labels.passages[0, 1:].tolist() == [PADDING, PADDING]
    live = live_negatives(plain, corpus, n=2, teacher="teacher")
    assert known(live[0]["label"], 2).scores is not None


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_keys_are_equal_exactly_where_texts_are_and_all_positives_are_known(corpus):
    rng = np.random.default_rng(3)
    rows = Dataset.from_list(
        [
            {
                "query": f"q{query}",
                "positive_ids": [f"id{row}" for row in picked[: query % 4 + 1]],
                "negative_ids": [f"id{row}" for row in picked[4:10]],
            }
            for query in range(30)
            for picked in [rng.permutation(PASSAGES)]
        ]
    )
    live = live_negatives(rows, corpus, n=6)
    positives = {row["query"]: {corpus[name]["text"] for name in row["positive_ids"]} for row in rows}
    text_of_key, key_of_text, all_known = {}, {}, []
    for row in live:
        labels = known(row["label"], 6)
        assert labels.scores is None
        texts = [row["positive"], *(row[f"negative_{place}"] for place in range(1, 7))]
        for key, text in zip(labels.passages[0].tolist(), texts, strict=True):
            assert text_of_key.setdefault(key, text) == text
            assert key_of_text.setdefault(text, key) == key
        all_known.append((row["anchor"], labels.positives[0].tolist()))
    assert len({len(keys) for _, keys in all_known}) == 1
    for anchor, keys in all_known:
        texts = {text_of_key[key] for key in keys if key != PADDING and key in text_of_key}
        assert texts == positives[anchor]
    assert PADDING not in text_of_key


def test_scores_of_the_teacher_arrive_as_they_are(corpus, rows):
    live = live_negatives(rows, corpus, n=3, teacher="teacher")
    owners = [(row, place) for row in rows for place in range(len(row["positive_ids"]))]
    for epoch in range(2):
        live.set_epoch(epoch)
        for row, (owner, place) in zip(live, owners, strict=True):
            scores = known(row["label"], 3).scores[0].numpy()
            texts = [corpus[name]["text"] for name in owner["negative_ids"]]
            drawn = [texts.index(row[f"negative_{number}"]) for number in (1, 2, 3)]
            expected = [owner["negative_teacher_scores"][one] for one in drawn]
            expected.insert(0, owner["positive_teacher_scores"][place])
            assert scores.tobytes() == np.float32(expected).tobytes()


def test_extreme_scores_and_the_retrievers(corpus):
    values = [-0.0, 3.4028235e38, 1e-45, float("-inf"), -1.5]
    rows = Dataset.from_dict(
        {
            "query": ["q"],
            "positive_ids": [["id0"]],
            "negative_ids": [["id1", "id2", "id3", "id4"]],
            "positive_scores": [values[:1]],
            "negative_scores": [values[1:]],
        }
    )
    labels = known(live_negatives(rows, corpus, n=4, teacher="score")[0]["label"], 4)
    assert labels.scores.numpy().tobytes() == np.float32(values).tobytes()


# ---- generations on disk ---------------------------------------------------------------------------------------------


def test_the_first_generation_is_written_once(corpus):
    rows = make_rows(seed=11)
    live = live_negatives(rows, corpus, n=2)
    folder = live.source.folder_of(0)
    assert folder.is_relative_to(cache_root() / "live")
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert stamps
    again = live_negatives(rows, corpus, n=4, seed=3, positives="first", max_positives=9)
    assert again.source.folder_of(0) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    assert live_negatives(rows.select(range(5)), corpus).source.folder_of(0) != folder
    assert live_negatives(rows, corpus, teacher="teacher").source.folder_of(0) != folder


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_bad_rows(corpus, rows):
    with pytest.raises(TypeError, match="Dataset"):
        live_negatives(DatasetDict({"train": rows}), corpus)
    with pytest.raises(TypeError, match="Dataset"):
        live_negatives(rows[:], corpus)
    with pytest.raises(TypeError, match="orpus"):
        live_negatives(rows, rows)
    for name in ("query", "positive_ids"):
        with pytest.raises(KeyError, match=name):
            live_negatives(rows.remove_columns(name), corpus)
    unknown = Dataset.from_dict({"query": ["q"], "positive_ids": [["id1"]], "negative_ids": [["nowhere"]]})
    with pytest.raises(KeyError, match="nowhere"):
        live_negatives(unknown, corpus)
    unknown = Dataset.from_dict({"query": ["q"], "positive_ids": [["elsewhere"]], "negative_ids": [["id1"]]})
    with pytest.raises(KeyError, match="elsewhere"):
        live_negatives(unknown, corpus)
    nobody = Dataset.from_dict({"query": ["q"], "positive_ids": [[]], "negative_ids": [["id1"]]})
    with pytest.raises(ValueError, match="positive"):
        live_negatives(nobody, corpus)
    with pytest.raises(ValueError, match="positive"):
        live_negatives(rows.select([]), corpus)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n": 0}, ValueError, "n"),
        ({"n": 1.5}, TypeError, "n"),
        ({"n": True}, ValueError, "n"),
        ({"seed": -1}, ValueError, "seed"),
        ({"positives": "random"}, ValueError, "positives"),
        ({"max_positives": 2}, ValueError, "max_positives"),
        ({"max_positives": 0}, ValueError, "max_positives"),
        ({"teacher": "nobody"}, KeyError, "nobody"),
    ],
)
def test_bad_options(corpus, rows, options, error, match):
    with pytest.raises(error, match=match):
        live_negatives(rows, corpus, **options)


def test_an_error_leaves_no_half_generation(corpus):
    rows = Dataset.from_dict({"query": ["lost"], "positive_ids": [["id1"]], "negative_ids": [["id2", "nowhere"]]})
    before = {path for path in (cache_root() / "live").glob("*/*") if path.is_dir()}
    with pytest.raises(KeyError):
        live_negatives(rows, corpus)
    assert {path for path in (cache_root() / "live").glob("*/*") if path.is_dir()} == before


# ---- in the trainer --------------------------------------------------------------------------------------------------


def make_model():
    words = ["[UNK]", "query:", "of", "sixty"]
    words += [f"q{row}" for row in range(40)] + [f"p{row}" for row in range(PASSAGES)]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu"), words


class Watched:
    """What a loss was given: for each batch the first words of its texts, column by column, and its labels."""

    def __init__(self, loss, words):
        self.words, self.batches, self.losses = words, [], []
        loss.register_forward_pre_hook(self._note)
        loss.register_forward_hook(
            lambda _, given, answer: self.losses.append(float(sum(self._parts(answer)).detach()))
        )

    @staticmethod
    def _parts(answer):
        return answer.values() if isinstance(answer, dict) else [answer]

    def _note(self, _, given):
        columns = []
        for feature in given[0]:
            ids, starts = feature["input_ids"].tolist(), feature["offsets"].tolist()
            ends = [*starts[1:], len(ids)]
            columns.append([" ".join(self.words[one] for one in ids[a:b]) for a, b in zip(starts, ends, strict=True)])
        self.batches.append((columns, given[1]))


class Epochs(TrainerCallback):
    """How many batches each epoch began with."""

    def __init__(self, watched):
        self.watched, self.begins = watched, []

    def on_epoch_begin(self, *args, **kwargs):
        self.begins.append(sum(len(one.batches) for one in self.watched))


def trainer_of(model, data, loss, folder, *callbacks, **options):
    arguments = SentenceTransformerTrainingArguments(
        **{
            "output_dir": str(folder),
            "num_train_epochs": 3,
            "per_device_train_batch_size": 6,
            "learning_rate": 0.01,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "logging_strategy": "no",
        }
        | options
    )
    return SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=loss, callbacks=list(callbacks)
    )


def rows_by_epoch(watched, begins):
    """What was seen in each epoch: rows of texts with their labels."""
    out = []
    for start, stop in itertools.pairwise([*begins, len(watched.batches)]):
        seen = []
        for columns, labels in watched.batches[start:stop]:
            seen += [(texts, label.tolist()) for *texts, label in zip(*columns, labels, strict=True)]
        out.append(sorted(seen))
    return out


def expected_by_epoch(live, epochs, prompt=""):
    """What should be seen in each epoch, from rows made again."""
    out, names = [], None
    for epoch in range(epochs):
        live.set_epoch(epoch)
        seen = []
        for row in live:
            names = [name for name in row if name not in ("anchor", "label")]
            seen.append(([prompt + row["anchor"], *(row[name] for name in names)], row["label"]))
        out.append(sorted(seen))
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dataloader_num_workers": 2},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        {"prompts": {"anchor": "query: "}},
        {"accelerator_config": {"use_seedable_sampler": False}},
    ],
    ids=["plain", "workers", "persistent", "prompts", "unseeded"],
)
def test_the_trainer_sees_each_epochs_own_negatives(corpus, rows, tmp_path, options):
    model, words = make_model()
    loss = HardNegativesRankingLoss(model)
    watched = Watched(loss, words)
    epochs = Epochs([watched])
    trainer_of(model, live_negatives(rows, corpus, n=3), loss, tmp_path, epochs, **options).train()
    prompt = options.get("prompts", {}).get("anchor", "")
    expected = expected_by_epoch(live_negatives(rows, corpus, n=3), 3, prompt)
    assert rows_by_epoch(watched, epochs.begins) == expected
    assert expected[0] != expected[1] != expected[2]
    assert np.isfinite(watched.losses).all()


@pytest.mark.parametrize("kind", [BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED])
def test_batches_without_duplicates(corpus, rows, tmp_path, kind):
    model, words = make_model()
    loss = HardNegativesRankingLoss(model)
    watched = Watched(loss, words)
    epochs = Epochs([watched])
    live = live_negatives(rows, corpus, n=2)
    trainer_of(model, live, loss, tmp_path, epochs, batch_sampler=kind).train()
    expected = expected_by_epoch(live_negatives(rows, corpus, n=2), 3)
    # It takes some rows twice, where too few go together.
    for seen, should in zip(rows_by_epoch(watched, epochs.begins), expected, strict=True):
        assert len(seen) > 0.8 * len(should)
        assert all(row in should for row in seen)
    for place, (columns, _) in enumerate(watched.batches):
        hashed = kind == BatchSamplers.NO_DUPLICATES_HASHED
        # The hashes are of the columns that the dataset lists, and of the time of the first batch.
        texts = [text for column in (columns[:2] if hashed else columns) for text in column]
        assert len(set(texts)) == len(texts), place


def test_the_stock_loss_trains_on_them(corpus, rows, tmp_path):
    model, words = make_model()
    loss = MultipleNegativesRankingLoss(model)
    watched = Watched(loss, words)
    trainer_of(
        model, live_negatives(rows, corpus, n=2), loss, tmp_path, num_train_epochs=12, learning_rate=0.05
    ).train()
    assert np.isfinite(watched.losses).all()
    assert np.mean(watched.losses[-8:]) < 0.7 * np.mean(watched.losses[:8])


@pytest.mark.parametrize("several_losses", [False, True])
def test_two_sets_with_follow_epochs(corpus, rows, tmp_path, several_losses):
    model, words = make_model()
    others = make_rows(queries=18, seed=5)
    makers = {
        "one": lambda: live_negatives(rows, corpus, n=2),
        "two": lambda: live_negatives(others, corpus, n=2, seed=4),
    }
    data = DatasetDict({name: make() for name, make in makers.items()})
    losses = {name: HardNegativesRankingLoss(model) for name in makers}
    if not several_losses:
        losses = dict.fromkeys(makers, losses["one"])
    watched = [Watched(loss, words) for loss in dict.fromkeys(losses.values())]
    epochs = Epochs(watched)
    trainer = trainer_of(
        model, data, losses if several_losses else losses["one"], tmp_path, FollowEpochs(*data.values()), epochs,
        multi_dataset_batch_sampler="proportional", dataloader_num_workers=0,
    )  # fmt: skip
    trainer.train()
    expected = [expected_by_epoch(make(), 3) for make in makers.values()]
    if several_losses:
        for one, should in zip(watched, expected, strict=True):
            seen = rows_by_epoch(one, [len(one.batches) * epoch // 3 for epoch in range(3)])
            assert seen == should
    else:
        seen = rows_by_epoch(watched[0], epochs.begins)
        assert seen == [sorted(one + other) for one, other in zip(*expected, strict=True)]


def test_follow_epochs_takes_live_negatives_alone(rows):
    with pytest.raises(TypeError, match="live_negatives"):
        FollowEpochs(rows)


def test_a_selection_of_the_rows_draws_anew_in_each_epoch(corpus, rows, tmp_path):
    """`select` and `shuffle` answer with rows that the trainer must still be able to tell the epoch."""
    model, words = make_model()
    loss = HardNegativesRankingLoss(model)
    watched = Watched(loss, words)
    epochs = Epochs([watched])
    data = live_negatives(rows, corpus, n=3).select(range(20))
    trainer_of(model, data, loss, tmp_path, epochs).train()
    seen = rows_by_epoch(watched, epochs.begins)
    assert seen[0] != seen[1] != seen[2]


def test_a_training_that_is_resumed_within_an_epoch_draws_that_epochs_negatives(corpus, rows, tmp_path):
    def train(resume=None):
        model, words = make_model()
        loss = HardNegativesRankingLoss(model)
        watched = Watched(loss, words)
        options = {"save_strategy": "steps", "save_steps": 12, "save_only_model": False}
        live = live_negatives(rows, corpus, n=3)
        trainer_of(model, live, loss, tmp_path, FollowEpochs(live), **options).train(resume_from_checkpoint=resume)
        return watched

    plain = train()
    assert len(plain.batches) == 24
    resumed = train(str(tmp_path / "checkpoint-12"))
    assert resumed.losses == plain.losses[12:]
    for (columns, labels), (expected, other) in zip(resumed.batches, plain.batches[12:], strict=True):
        assert columns == expected
        assert torch.equal(labels, other)
