"""The sample datasets included in the package."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.loaders.beir import load_beir

_SAMPLES = ("medquad", "earthquakes")


def load_sample(name: str = "medquad") -> tuple[Corpus, Dataset]:
    """Load a sample dataset that is included in the package.

    Args:
        name: `"medquad"`: about 2,000 passages and 600 questions about diseases from MedQuAD (Ben Abacha and
            Demner-Fushman 2019, CC BY 4.0), with several questions per disease. `"earthquakes"`: nine passages and one
            question, for examples.

    Returns:
        The corpus, and rows with `query_id`, `query`, `positive_ids`, `judged_negative_ids`.

    Example:
        >>> corpus, queries = load_sample("earthquakes")
        >>> len(corpus), queries[0]["query"], queries[0]["positive_ids"]
        (9, 'what causes earthquakes?', ['plate-boundaries'])
    """
    checks.one_of("load_sample", "name", name, _SAMPLES)
    return load_beir(Path(__file__).parents[1] / "sample" / name)
