"""Negatives, mined with a late-interaction model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.indexes import maxsim
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.tokens import TokenIndex
from hnm_datasets.models.handles import LoadedModel, ModelHandle
from hnm_datasets.models.token_embedding_job import TokenEmbeddingJob
from hnm_datasets.models.token_encoders import TokenEncoder
from hnm_datasets.models.token_vectors import TokenVectors
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.transforms.miners.base import Miner
from hnm_datasets.transforms.miners.model import ModelNegatives

logger = logging.getLogger(__name__)

#: The maximum number of queries for measuring recall.
_SAMPLE = 100


class _Queries(NamedTuple):
    """The token vectors of B queries, and the queries as encoded by the miner of the candidates."""

    vectors: TokenVectors
    others: Any


@dataclass(frozen=True)
class LateInteractionNegatives(ModelNegatives):
    """Mine negatives with a late-interaction model, such as ColBERT: the passages it ranks highest.

    An index of all token vectors, or another miner, finds candidates, which are scored by exact MaxSim (Khattab and
    Zaharia 2020, *ColBERT*, https://arxiv.org/abs/2004.12832). Known positives are excluded. The highest-ranked
    negatives are often relevant but not annotated, so filter them with `RelativeMargin` or `RankWindow`.

    The corpus is encoded once, see `Corpus.embed_tokens`. Each distinct query is encoded once and its vectors cached on
    disk. The step uses the current weights of the model; create a new step after the weights change.

    Args:
        corpus: The passages.
        model: A `MultiVectorEncoder`, its path or Hub id, or a function from a list of texts to an array of shape
            (tokens, D) for each, see `fingerprint`.
        k: Candidates per query. A row gets fewer only if, after exclusions, fewer of the scored passages remain.
        exclude_group: Also exclude all passages from the source documents of the positives. Requires a corpus with
            groups.
        query_prompt: The text before each query; None uses the model's query prompt, if it has one.
        prompt: The text before each passage; None uses the model's document prompt, if it has one, or the prompt of the
            index.
        index: The index to search. The default is `TokenIndex(corpus.embed_tokens(model, prompt=prompt))`. For a small
            corpus it scores all passages, for a large one 1,000 passages per query, or 2·k + 64 if this is more.
        batch_size: Texts per forward pass.
        fingerprint: For a function: a name that changes whenever the function's vectors change.
        candidates: A miner, such as `BM25Negatives(corpus, k=1000)`, to score its `k` best passages; None scores the
            candidates of the index.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if present.

    Columns written:
        `negative_ids` (best first), `negative_scores` (MaxSim or its mean, depending on the model's similarity),
        `negative_ranks` (1-based positions in the full list, before exclusions), `negative_source` (`"late"`),
        `positive_scores` (from the same model, aligned with `positive_ids`).

    Raises:
        TypeError: `corpus`, `model`, `index`, `candidates` or another option is of the wrong type.
        ValueError: `k` is less than 1 or greater than the k of `candidates`, the index or `candidates` belongs to
            another corpus, the index belongs to another model, or a text has no token or a NaN vector.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> def first_letters(texts):
        ...     return [[[word[0] == one for one in "abcdefgh"] for word in text.lower().split()] for text in texts]
        >>> step = LateInteractionNegatives(corpus, first_letters, k=3, fingerprint="letters-1")
        >>> mined = queries.map(step, batched=True)
        >>> len(mined[0]["negative_ids"]), mined[0]["negative_source"][0]
        (3, 'late')
    """

    source: ClassVar[str] = "late"
    index_kind = TokenIndex
    model_kind = "MultiVectorEncoder"
    embed = "corpus.embed_tokens"

    _: KW_ONLY
    index: TokenIndex | None = None
    candidates: Miner | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        other, name = self.candidates, type(self).__name__
        if other is None:
            return
        if not isinstance(other, Miner) or not {*other.input_columns} <= {*self.input_columns}:
            raise TypeError(
                f"{name}: candidates must be a miner that searches for the query, such as "
                f"BM25Negatives(corpus, k=1000), got {type(other).__name__}."
            )
        if other.corpus != self.corpus:
            raise ValueError(f"{name}: the miner in candidates belongs to another corpus. Create it with this corpus.")
        if other.k < self.k:
            raise ValueError(
                f"{name}: k is {self.k}, but candidates finds only {other.k} passages. Pass "
                f"{type(other).__name__}(..., k=...) with a k several times as large."
            )

    def _job(self, model: LoadedModel | ModelHandle) -> TokenEmbeddingJob:
        encoder = TokenEncoder(model, "document", prompt=self.prompt, batch_size=self.batch_size)
        return TokenEmbeddingJob(self.corpus, encoder)

    @property
    def _tokens(self) -> TokenIndex:
        assert self.index is not None  # set in __post_init__
        return self.index

    def prepare(self) -> None:
        """Encode the corpus, unless its token vectors are cached, and prepare the index or the miner of candidates."""
        self._ensure_embedded()
        (self._tokens if self.candidates is None else self.candidates).prepare()

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> _Queries:
        encoder: TokenEncoder = self.model
        others = None if self.candidates is None else self.candidates._encode(queries, keys)
        return _Queries(encoder.vectors(queries), others)

    def _search(self, encoded: _Queries, which: NDArray[np.int64], depth: int) -> Hits:
        vectors = encoded.vectors.take(which)
        if self.candidates is None:
            # The same number for every depth, so that a deeper search continues the list of a shallower one.
            return self._tokens.search(vectors, depth, candidates=max(self._tokens.candidates, 2 * self.k + 64))
        found = self.candidates._search(encoded.others, which, self.candidates.k).rows
        lists = Ragged(offsets_of((found >= 0).sum(axis=1)), found[found >= 0])
        return maxsim.ranked(vectors, self._tokens.embeddings, lists, depth)

    def _score(self, encoded: _Queries, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        return self._tokens.score(encoded.vectors, rows)

    def recall(self, queries: Sequence[str], k: int | None = None) -> float:
        """Measure the share of the k best passages by exact MaxSim over the corpus that the step finds.

        Args:
            queries: B texts. A sample of 100 is used if there are more, because each is compared with every passage.
            k: The number of passages; None uses the k of the step.

        Returns:
            From 0 to 1.
        """
        texts = list(queries)
        if len(texts) > _SAMPLE:
            chosen = np.sort(np.random.default_rng(0).choice(len(texts), _SAMPLE, replace=False))
            texts = [texts[number] for number in chosen]
        wanted = self.k if k is None else checks.whole_number(type(self).__name__, "k", k, low=1)
        depth = min(wanted, len(self.corpus))
        self.prepare()
        encoded = self._encode(texts, digest_strings(texts)[:, 0])
        best = maxsim.search(encoded.vectors, self._tokens.embeddings, depth)
        found = self._search(encoded, np.arange(len(texts)), depth)
        # Any passage with the same score counts as found.
        recall = float((found.scores >= best.scores[:, -1:]).mean())
        logger.info(
            "%s: recall %.1f%% of the %d best passages, on %d queries.",
            type(self).__name__,
            100 * recall,
            depth,
            len(texts),
        )
        return recall
