"""Scores from a late-interaction model."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes import maxsim
from hnm_datasets.models.late_interaction import LateModel
from hnm_datasets.models.token_embeddings import TokenEmbeddings
from hnm_datasets.transforms.scorers.base import Scorer


@dataclass(frozen=True)
class LateInteractionScores(Scorer):
    """Score the positives and the candidates of any source with a late-interaction model, such as ColBERT.

    The score is MaxSim (Khattab and Zaharia 2020, *ColBERT*, https://arxiv.org/abs/2004.12832): the largest dot product
    of each query token with a passage token, summed over the query tokens, or averaged if the model's similarity is
    `"meanmaxsim"`. It is exact and depends only on the query and the passage.

    The first use encodes the whole corpus once. `LateInteractionNegatives` uses the same files; see
    `Corpus.embed_tokens` for their size. Queries are encoded once and their vectors cached on disk.

    Args:
        corpus: The passages.
        model: A `MultiVectorEncoder`, its path or Hub id, or a function from a list of texts to an array of shape
            (tokens, D) for each, see `fingerprint`.
        name: Part of the names of the columns.
        query_prompt: The text before each query; None uses the model's query prompt, if it has one.
        prompt: The text before each passage; None uses the model's document prompt, if it has one.
        embeddings: The token vectors of the corpus, to set other options, as in
            `corpus.embed_tokens(model, token_pooling=...)`; None computes them on first use.
        batch_size: Texts per forward pass.
        fingerprint: For a function: a name that changes whenever the function's vectors change.

    Columns read:
        `query`, `positive_ids`, `negative_ids`.

    Columns written:
        `positive_<name>_scores` and `negative_<name>_scores`, aligned with the ids.

    Raises:
        KeyError: An id is not in the corpus.
        TypeError: `corpus`, `model` or `embeddings` is of the wrong type.
        ValueError: `name` is not a word, the embeddings belong to another corpus or model, or a text has no token or a
            NaN vector.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
        >>> def first_letters(texts):
        ...     return [[[word[0] == one for one in "abcdefgh"] for word in text.lower().split()] for text in texts]
        >>> step = LateInteractionScores(corpus, first_letters, fingerprint="letters-1")
        >>> scored = mined.map(step, batched=True)
        >>> scored[0]["positive_teacher_scores"], scored[0]["negative_teacher_scores"]
        ([2.0], [2.0, 2.0, 1.0])
    """

    name: str = "teacher"
    _: KW_ONLY
    query_prompt: str | None = None
    prompt: str | None = None
    embeddings: TokenEmbeddings | None = None
    batch_size: int = 32
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        step = type(self).__name__
        self._set(batch_size=checks.whole_number(step, "batch_size", self.batch_size, low=1))
        late = LateModel.of(
            step,
            self.corpus,
            self.model,
            query_prompt=self.query_prompt,
            prompt=self.prompt,
            embeddings=self.embeddings,
            batch_size=self.batch_size,
            fingerprint=self.fingerprint,
        )
        # The encoders replace the model and its prompts, because they pickle to their fingerprints.
        self._set(model=late, query_prompt=late.queries.prompt, prompt=late.prompt, embeddings=late.embeddings)

    def prepare(self) -> None:
        """Encode the corpus, unless its token vectors are cached."""
        late: LateModel = self.model
        late.prepare(self.corpus)

    def _scores_of(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        late: LateModel = self.model
        return maxsim.score(late.queries.vectors(queries), late.embeddings, rows)
