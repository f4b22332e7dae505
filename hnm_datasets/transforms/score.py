"""Scoring: what another model says of the candidates, beside what the retriever said."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, Batch, score_column
from hnm_datasets.corpus import Corpus, check_corpus
from hnm_datasets.embeddings import Embeddings
from hnm_datasets.encoders import Encoder
from hnm_datasets.indexes import exact
from hnm_datasets.models import load_model
from hnm_datasets.ragged import Ragged, list_array, offsets_of, part_of, turns
from hnm_datasets.rerankers import Reranker
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.dense import check_same_model, query_encoder

#: Bytes of texts that are scored at once.
_TEXT_BYTES = 1 << 28


@dataclass(frozen=True)
class _Scores(Transform):
    """A step that scores each row's positives and candidates. Subclasses fill in `_pair_scores`."""

    input_columns: ClassVar[tuple[str, ...]] = (QUERY, POSITIVE_IDS, NEGATIVE_IDS)

    corpus: Corpus
    model: Any
    name: str

    @property
    def output_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step writes."""
        return (score_column(self.name, of="positive"), score_column(self.name))

    def __post_init__(self) -> None:
        step = type(self).__name__
        check_corpus(step, self.corpus)
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z]\w*", self.name) or self.name == "score":
            raise ValueError(
                f"{step}: name goes into the names of two columns and must be a word such as 'teacher', got "
                f"{self.name!r}. ('score' stands for the retriever's own scores.)"
            )

    @abstractmethod
    def _scores_of_turn(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query. Shape (C,), aligned with `rows`."""

    def _pair_scores(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score in turns whose texts are not too much for the memory, usually a single one."""
        sizes = np.bincount(rows.owners, weights=self.corpus.text_sizes(rows.values), minlength=len(rows))
        parts = turns(sizes.astype(np.int64), _TEXT_BYTES)
        found = [self._scores_of_turn(queries[part], part_of(rows, part)) for part in parts]
        return np.concatenate([*found, np.empty(0, dtype=np.float32)])

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        queries = batch.strings(QUERY).to_pylist()
        lists = [
            self.corpus.rows_of_lists(name, batch.string_lists(name), batch.step, batch.describe)
            for name in (POSITIVE_IDS, NEGATIVE_IDS)
        ]
        # One list per query, so that its positives and candidates are scored in the same batches.
        owners = np.concatenate([one.owners for one in lists])
        order = np.argsort(owners, kind="stable")
        offsets = offsets_of(lists[0].lengths + lists[1].lengths)
        together = Ragged(offsets, np.concatenate([one.values for one in lists])[order])
        scores = np.empty(len(order), dtype=np.float32)
        scores[order] = self._pair_scores(queries, together)
        split = len(lists[0].values)
        return {
            name: list_array(one.offsets, pa.array(part))
            for name, one, part in zip(self.output_columns, lists, (scores[:split], scores[split:]), strict=True)
        }


@dataclass(frozen=True)
class BiEncoderScores(_Scores):
    """Score the candidates of any source, and the positives, with an embedding model.

    Only passages that are among them are encoded, each once, and their vectors kept on disk.

    Args:
        corpus: The passages.
        model: A `SentenceTransformer`, its path or Hub id, or a function from a list of texts to an array of shape
            (B, D), see `fingerprint`.
        name: Goes into the names of the columns.
        query_prompt: What each query is preceded by; None: the model's own prompt for queries, if it has one.
        prompt: What each passage is preceded by; None: the model's own prompt for documents, if it has one.
        embeddings: The vectors of the whole corpus under the model, if there are any; `prompt` is then theirs.
        batch_size: Texts per forward pass.
        fingerprint: For a function: a name that changes whenever its vectors do.

    Columns read:
        `query`, `positive_ids`, `negative_ids`.

    Columns written:
        `positive_<name>_scores` and `negative_<name>_scores`, aligned with the ids.

    Raises:
        KeyError: An id is not in the corpus.
        TypeError: `corpus` or `model` is something else.
        ValueError: `name` is no word, the embeddings are of another corpus or model, or a vector is zero or NaN.

    Example:
        >>> import numpy as np
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
        >>> def count_words(texts):
        ...     words = ("earthquake", "wave", "plate", "volcano", "the")
        ...     return np.array([[text.lower().count(word) + 0.1 for word in words] for text in texts])
        >>> scored = mined.map(BiEncoderScores(corpus, count_words, fingerprint="words-1"), batched=True)
        >>> [len(scored[0][name]) for name in ("positive_bi_encoder_scores", "negative_bi_encoder_scores")]
        [1, 3]
    """

    name: str = "bi_encoder"
    _: KW_ONLY
    query_prompt: str | None = None
    prompt: str | None = None
    embeddings: Embeddings | None = None
    batch_size: int = 32
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        step = type(self).__name__
        self._set(batch_size=checks.whole_number(step, "batch_size", self.batch_size, low=1))
        if self.embeddings is not None:
            if not isinstance(self.embeddings, Embeddings):
                raise TypeError(
                    f"{step}: embeddings must be Embeddings, got {type(self.embeddings).__name__}. Make them with "
                    f"corpus.embed(model)."
                )
            if self.embeddings.corpus != self.corpus:
                raise ValueError(f"{step}: the embeddings are of another corpus. Pass corpus.embed(model) of this one.")
        loaded = load_model(
            self.model.documents if isinstance(self.model, _BiEncoder) else self.model, self.fingerprint
        )
        documents = Encoder(loaded, "document", prompt=self.prompt, batch_size=self.batch_size)
        queries = query_encoder(loaded, self.embeddings or documents, self.query_prompt, self.batch_size)
        if self.embeddings is not None:
            check_same_model(step, queries, self.embeddings)
        # From here on the encoders stand for the model and its prompts: they pickle to their fingerprints.
        self._set(model=_BiEncoder(queries, documents), query_prompt=queries.prompt, prompt=documents.prompt)

    def _scores_of_turn(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        asked = self.model.queries.vectors(queries)
        if self.embeddings is not None:
            return exact.score(asked, self.embeddings.vectors, rows, self.embeddings.similarity)
        used, places = np.unique(rows.values, return_inverse=True)
        if not len(used):
            return np.empty(0, dtype=np.float32)
        vectors = self.model.documents.vectors(self.corpus.texts(used).to_pylist())
        return exact.score(asked, vectors, Ragged(rows.offsets, places), self.model.queries.similarity)


@dataclass(frozen=True)
class _BiEncoder:
    """One model with its prompts for queries and documents."""

    queries: Encoder
    documents: Encoder


@dataclass(frozen=True)
class CrossEncoderScores(_Scores):
    """Score the candidates of any source, and the positives, with a teacher that reads query and passage together.

    Each distinct pair of a batch of rows is scored once, longest first over all rows, in full batches. Scores are kept
    on disk by pair, so another k or filter scores nothing again, and a killed run goes on where it was.

    Args:
        corpus: The passages.
        model: A `CrossEncoder`, its path or Hub id, or a function from a list of (query, passage) pairs to as many
            scores, see `fingerprint`.
        name: Goes into the names of the columns.
        batch_size: Pairs per forward pass.
        activation: `"model"`: scores as the model gives them, which is a sigmoid for most rerankers and the raw logit
            for some; `"sigmoid"`: from 0 to 1; `"none"`: the raw logit. For a function only `"model"`.
        dtype: Compute in `"bfloat16"` or `"float16"`; None: as the weights are.
        fingerprint: For a function: a name that changes whenever its scores do.

    Columns read:
        `query`, `positive_ids`, `negative_ids`.

    Columns written:
        `positive_<name>_scores` and `negative_<name>_scores`, aligned with the ids.

    Raises:
        KeyError: An id is not in the corpus.
        TypeError: `corpus` or `model` is something else.
        ValueError: `name` is no word, the model has several outputs per pair, or a score is NaN.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
        >>> def count_shared_words(pairs):
        ...     return [len(set(query.split()) & set(passage.split())) for query, passage in pairs]
        >>> scored = mined.map(CrossEncoderScores(corpus, count_shared_words, fingerprint="shared-1"), batched=True)
        >>> [len(scored[0][name]) for name in ("positive_teacher_scores", "negative_teacher_scores")]
        [1, 3]
    """

    name: str = "teacher"
    _: KW_ONLY
    batch_size: int = 32
    activation: str = "model"
    dtype: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(batch_size=checks.whole_number("CrossEncoderScores", "batch_size", self.batch_size, low=1))
        # From here on the reranker stands for the model: it pickles to its fingerprint.
        self._set(
            model=Reranker(
                self.model,
                batch_size=self.batch_size,
                activation=self.activation,
                dtype=self.dtype,
                fingerprint=self.fingerprint,
            )
        )

    def _scores_of_turn(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        used, places = np.unique(rows.values, return_inverse=True)
        reranker: Reranker = self.model
        return reranker.scores(queries, self.corpus.texts(used), Ragged(rows.offsets, places))
