"""The YAML metadata of a dataset card, which the Hub and `load_dataset` read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from datasets import Dataset, DatasetInfo, Features
from huggingface_hub import DatasetCardData

from hnm_datasets.formats.base import Format
from hnm_datasets.hub.shards import CORPUS, DATA, corpus_features
from hnm_datasets.markdown import is_hub_id, one_line, without_directions
from hnm_datasets.runtime.datasets_internals import SplitDict, SplitInfo, info_for_card

_TAGS = ["sentence-transformers", "hard-negatives", "hnm_datasets"]
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


class Config(NamedTuple):
    """One configuration of a published dataset.

    Attributes:
        folder: The folder of its shards.
        features: The features of its columns.
        splits: The rows and bytes of each split.
    """

    folder: str
    features: Features
    splits: Mapping[str, tuple[int, int]]


def configs_of(record: Mapping[str, Any], features: Features) -> dict[str, Config]:
    """Return the configurations of a dataset that `save_mined` wrote: the rows, and the corpus if it is included.

    Args:
        record: The record of the dataset.
        features: The features of its rows.
    """
    sizes = {name: (known["rows"], known["bytes"]) for name, known in record["splits"].items()}
    configs = {"default": Config(DATA, features, sizes)}
    corpus = record["corpus"]
    if corpus and corpus["included"]:
        sizes = {"train": (corpus["passages"], corpus["bytes"])}
        configs[CORPUS] = Config(CORPUS, corpus_features(corpus["columns"]), sizes)
    return configs


def card_metadata(
    record: Mapping[str, Any], splits: Mapping[str, Dataset], configs: Mapping[str, Config], format: Format
) -> str:
    """Return the metadata of a card as YAML, see `dataset_card`."""
    more: dict[str, Any] = {"tags": _TAGS}
    if configs:
        more["configs"] = [
            {
                "config_name": name,
                "data_files": [{"split": split, "path": f"{config.folder}/{split}-*"} for split in config.splits],
            }
            for name, config in configs.items()
        ]
        more["dataset_info"] = [{"config_name": name, **_info(config)} for name, config in configs.items()]
    return DatasetCardData(
        pretty_name=one_line(record["name"]) if record["name"] else None,
        license=without_directions(record["license"]) if record["license"] else None,
        language=[without_directions(one) for one in record["language"]] if record["language"] else None,
        task_categories=list(format.tasks),
        size_categories=[_size_category(sum(len(rows) for rows in splits.values()))],
        source_datasets=[record["source"]] if record["source"] and is_hub_id(record["source"]) else None,
        **more,
    ).to_yaml()


def _info(config: Config) -> dict[str, Any]:
    splits = SplitDict(
        {name: SplitInfo(name, num_bytes=size, num_examples=rows) for name, (rows, size) in config.splits.items()}
    )
    return info_for_card(DatasetInfo(features=config.features, splits=splits))


def _size_category(rows: int) -> str:
    limit = 1_000
    for position, name in enumerate(_SIZES):
        if rows < limit:
            return f"{_SIZES[position - 1]}<n<{name}" if position else f"n<{name}"
        limit *= 10
    return f"n>{_SIZES[-1]}"
