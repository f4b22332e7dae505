"""Helpers of the tests in this folder."""

import itertools

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import TrainerCallback

from hnm_datasets.training.labels import unpack

PASSAGES, QUERIES = 60, 24


def text_of(row):
    """The text of a passage; those of the last five are those of the first."""
    return f"p{row if row < PASSAGES - 5 else row - PASSAGES + 5} of sixty"


def is_alone(name):
    """Whether no other passage has this one's text."""
    return 5 <= int(name.removeprefix("id")) < PASSAGES - 5


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


def known(labels, n):
    """The label of one row."""
    return unpack(torch.tensor([labels]), 1 + n)


def whole(live):
    """All rows, as a list of dicts."""
    return [live[row] for row in range(len(live))]


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
        loss.register_forward_hook(lambda _, given, answer: self.losses.append(float(answer.detach())))

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
