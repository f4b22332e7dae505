"""A quick call of a pilot, and what of its answer must be the same in each run."""

from functools import partial

from hnm_datasets import BM25Negatives, DenseNegatives, RandomNegatives

#: So few that a training takes some hundredths of a second.
QUICK = {"sample": 60, "held_out": 40, "steps": 2, "seeds": 2}


def make_strategies(corpus):
    """One strategy of each kind."""
    return {
        "in-batch": [],
        "random": [RandomNegatives(corpus, k=4)],
        "BM25": [BM25Negatives(corpus, k=6)],
        "dynamic": [partial(DenseNegatives, corpus, k=4)],
    }


def answer(found):
    """All but the seconds and bytes, as JSON has it."""

    def plain(value):
        if isinstance(value, dict):
            dropped = ("cost", "whole_seconds", "training_seconds")
            return {name: plain(one) for name, one in value.items() if name not in dropped}
        return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    return plain(found.to_dict())
