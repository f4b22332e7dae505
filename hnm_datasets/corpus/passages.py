"""The passages that negatives are drawn from: found by id, memory-mapped, named by their content."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import as_arrow, is_one_value
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.corpus.files import CorpusFiles, open_files
from hnm_datasets.corpus.source import _CHUNK, Source, chunk_size
from hnm_datasets.corpus.text import is_blank, normalized_digests, passage_texts
from hnm_datasets.rows import Rows
from hnm_datasets.runtime.interrupts import check_wanted
from hnm_datasets.storage.folders import build_once, cache_root

if TYPE_CHECKING:
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    from hnm_datasets.models.embeddings import Embeddings
    from hnm_datasets.models.handles import EmbeddingModel, SparseModel, TokenModel
    from hnm_datasets.models.sparse_embeddings import SparseEmbeddings
    from hnm_datasets.models.token_embeddings import TokenEmbeddings

#: `id`, `text`, `title`, `group` and other columns that the corpus keeps; None for what it lacks.
Passage: TypeAlias = dict[str, str | None]


class Corpus:
    """Passages by id, memory-mapped from the `datasets` cache directory and named by their content.

    Make one with `Corpus.from_dataset`, `load_beir` or `from_pairs`. A corpus pickles to its fingerprint alone, so a
    transform that holds one stays small and hashes to the same value in every process; wherever it is unpickled, it is
    opened from the cache directory when it is first used.

    A passage's text is its title and its text, joined by a space.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on ids, texts, titles, groups and other columns that were kept,
            and on nothing else.

    Example:
        >>> from datasets import Dataset
        >>> corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b"], "text": ["Plates move.", "Waves roll."]}))
        >>> len(corpus), corpus["b"]
        (2, {'id': 'b', 'text': 'Waves roll.', 'title': None, 'group': None})
        >>> "c" in corpus, [passage["id"] for passage in corpus], corpus[-1] == corpus["b"]
        (False, ['a', 'b'], True)
        >>> corpus.texts(corpus.rows(["b", "a"])).to_pylist()
        ['Waves roll.', 'Plates move.']
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    @classmethod
    def from_dataset(
        cls,
        dataset: Rows,
        *,
        id_column: str = "id",
        text_column: str = "text",
        title_column: str | None = "title",
        group_column: str | None = "group",
        columns: Sequence[str] = (),
    ) -> Corpus:
        """Make a corpus of a dataset with one passage per row.

        The first time, the passages are copied into the cache directory, in a form that any process can map and that
        finds passages by id; afterwards the same passages are recognized by their content.

        Args:
            dataset: The passages: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
            id_column: The column of ids, each once: strings, or whole numbers, which become strings.
            text_column: The column of texts: strings; null is refused.
            title_column: The column of titles; null is an empty title. By default the column `title` if there is one;
                None: no titles.
            group_column: The column that names the document which a passage was cut from; null: a passage on its own.
                By default the column `group` if there is one; None: no groups.
            columns: Other columns to keep, such as a language or a site, for `SampleNegatives(per=...)`: strings or
                whole numbers, which become strings; null is no value. They are a part of the fingerprint, so that
                indexes and vectors of the passages with other columns are made again.

        Raises:
            KeyError: A named column does not exist.
            TypeError: The dataset is something else, or a column does not hold strings.
            ValueError: There is no passage, an id comes twice, or an id or text is null or empty.
        """
        source = Source(dataset, id_column, text_column, title_column, group_column, columns)
        name = source.fingerprint()
        build_once(cache_root() / "corpora", name, source.save)
        return cls(name)

    # ---- what it is ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._files.ids)

    def __repr__(self) -> str:
        return f"Corpus({len(self)} passages, fingerprint={self.fingerprint!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Corpus) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[type[Corpus], tuple[str]]:
        return Corpus, (self.fingerprint,)

    @property
    def has_groups(self) -> bool:
        """Whether the passages name the documents that they were cut from."""
        return self._files.groups is not None

    @property
    def columns(self) -> dict[str, pa.LargeStringArray]:
        """The columns as `Corpus.from_dataset` takes them, memory-mapped: `id`, `text`, and `title`, `group` if any.

        Then other columns that it keeps. What is null is empty here.
        """
        return {name: column for name, column in self._files.columns.items() if column is not None}

    # ---- passages ------------------------------------------------------------------------------------------------

    def __getitem__(self, which: str | int) -> Passage:
        """Return one passage as `id`, `text`, `title`, `group` and other columns that the corpus keeps.

        Args:
            which: Its id, a string; or its row number, which counts from the end if it is negative.

        Raises:
            IndexError: There is no such row.
            KeyError: There is no such id.
            TypeError: It is something else, such as a slice.
        """
        if isinstance(which, str):
            return next(self._passages(self.rows([which])))
        if isinstance(which, bool) or not hasattr(which, "__index__"):
            raise TypeError(
                f"A corpus gives one passage, by its id, a string, or by its row number, got {which!r}. For several "
                f"take corpus.to_dataset()[...], or corpus.texts(corpus.rows(ids))."
            )
        row = operator.index(which)
        if not -len(self) <= row < len(self):
            raise IndexError(f"There is no row {row} among the {len(self)} passages of this corpus.")
        return next(self._passages(np.array([row % len(self)])))

    def __iter__(self) -> Iterator[Passage]:
        """Yield every passage, in order, in the form of `corpus[0]`."""
        chunk = chunk_size(self._files.texts)
        for start in range(0, len(self), chunk):
            yield from self._passages(np.arange(start, min(start + chunk, len(self))))

    def __contains__(self, passage_id: object) -> bool:
        """Tell whether there is a passage of this id, a string or a whole number."""
        if not isinstance(passage_id, (str, int, np.integer)) or isinstance(passage_id, bool):
            raise TypeError(f"A corpus is asked for ids, strings or whole numbers, got {passage_id!r}.")
        return bool(self.find([passage_id])[0] >= 0)

    def _passages(self, rows: NDArray[np.integer]) -> Iterator[Passage]:
        at, columns = pa.array(rows), self._files.columns
        found = [pa.nulls(len(rows)) if column is None else column.take(at) for column in columns.values()]
        for values in zip(*(column.to_pylist() for column in found), strict=True):
            passage = dict(zip(columns, values, strict=True))
            yield passage | {name: passage[name] or None for name in self._files.may_lack}

    def to_dataset(self) -> Dataset:
        """Return the passages as a `Dataset`, whose columns are mapped from the files of the corpus and not copied.

        Its columns are `id`, `text`, and `title`, `group` and others where the corpus has them; a passage without a
        title has an empty one, a passage on its own the group null. `Corpus.from_dataset` makes the same corpus of it,
        if `columns` names the others again.

        It is a lookup for `sentence_transformers.util.resolve_ids`, which makes texts of mined rows (without titles).

        Example:
            >>> from sentence_transformers.util import resolve_ids
            >>> corpus = Corpus.from_dataset({"id": ["a", "b"], "text": ["Plates move.", "Waves roll."]})
            >>> mined = Dataset.from_dict(
            ...     {"query_id": ["q"], "query": ["quakes?"], "positive_ids": [["a"]], "negative_ids": [["b"]]}
            ... )
            >>> texts, queries = (corpus.to_dataset(), "id", "text"), mined.select_columns(["query_id", "query"])
            >>> lookups = {"query_id": queries, "positive_ids": texts, "negative_ids": texts}
            >>> mined.with_transform(resolve_ids(lookups, output_format="lists"))[0]
            {'query': 'quakes?', 'positives': ['Plates move.'], 'negatives': ['Waves roll.']}
        """
        columns = dict(self.columns)
        for name in columns.keys() & self._files.may_lack:
            values = columns[name]
            named = pc.not_equal(values, "").buffers()[1]
            columns[name] = pa.LargeStringArray.from_buffers(len(values), *values.buffers()[1:], named)
        return Dataset(pa.table(columns), fingerprint=self.fingerprint)

    def rows(self, ids: Sequence[str] | pa.Array) -> NDArray[np.int64]:
        """Return the row number of each passage.

        Args:
            ids: B ids.

        Returns:
            Shape (B,).

        Raises:
            KeyError: The corpus has no passage of such an id.
        """
        rows = self.find(ids)
        if (rows < 0).any():
            unknown = str(ids[int(np.flatnonzero(rows < 0)[0])])
            raise KeyError(f"There is no passage {unknown!r} among the {len(self)} passages of this corpus.")
        return rows

    def find(self, ids: Sequence[str] | pa.Array) -> NDArray[np.int64]:
        """Return the row number of each passage, -1 where the corpus has none of this id. Shape (B,)."""
        if is_one_value(ids):
            raise TypeError(f"A corpus finds passages by a list of ids, got one id: pass [{ids!r}].")
        return self._files.by_id.find(as_ids(as_arrow(ids, "ids", "Corpus"), "ids", "Corpus", "value {}".format))

    def ids(self, rows: NDArray[np.integer]) -> pa.Array:
        """Return the ids of passages by row number. Shape (B,) → (B,)."""
        return self._files.ids.take(pa.array(rows)).cast(pa.string())

    def texts(self, rows: NDArray[np.integer]) -> pa.Array:
        """Return the texts of passages (title and text) by row number. Shape (B,) → (B,)."""
        files, at = self._files, pa.array(rows)
        return passage_texts(None if files.titles is None else files.titles.take(at), files.texts.take(at))

    def text_sizes(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the bytes of the texts (title and text) of passages by row number. Shape (B,)."""
        sizes = np.zeros(len(rows), dtype=np.int64)
        for column in (self._files.titles, self._files.texts):
            if column is not None:
                offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset :]
                # And the space between them.
                sizes += offsets[rows + 1] - offsets[rows] + 1
        return sizes

    def iter_texts(self, chunk: int = _CHUNK, rows: range | None = None) -> Iterator[pa.Array]:
        """Yield the texts of all passages, or of a range of them (title and text), in order.

        Args:
            chunk: How many at a time, or fewer where they are long.
            rows: Which ones; None: all.
        """
        files = self._files
        rows = range(len(self)) if rows is None else rows
        chunk = min(chunk, chunk_size(files.texts))
        for start in rows[::chunk]:
            check_wanted()
            length = min(chunk, rows.stop - start)
            titles = None if files.titles is None else files.titles.slice(start, length)
            yield passage_texts(titles, files.texts.slice(start, length))

    def iter_bodies(self) -> Iterator[pa.Array]:
        """Yield the texts of all passages without their titles, in order, some at a time; nothing without titles.

        Null for a passage that has no title or nothing but a title.
        """
        titles, texts = self._files.titles, self._files.texts
        chunk = chunk_size(texts)
        if titles is None:
            return
        for start in range(0, len(self), chunk):
            part = texts.slice(start, chunk)
            has_both = pc.invert(pc.or_(is_blank(titles.slice(start, chunk)), is_blank(part)))
            yield pc.if_else(has_both, part, None)

    def embed(
        self,
        model: EmbeddingModel,
        *,
        prompt: str | None = None,
        batch_size: int = 32,
        dtype: str = "float32",
        devices: Sequence[str] | None = None,
        normalize: bool | None = None,
        similarity: str | None = None,
        fingerprint: str | None = None,
    ) -> Embeddings:
        """Encode every passage with a model, once, into memory-mapped vectors in the cache directory.

        A second call with the same passages, weights, prompt and options finds the vectors there. An interrupted run
        resumes at its shard of 4,096 passages, with the same result to the byte. Passages with the same
        text are encoded once. Several processes, such as those of `accelerate launch`, share the work when each makes
        this call.

        Args:
            model: A `SentenceTransformer`, its path or Hub id, or a function from a list of texts to an array of shape
                (B, D).
            prompt: The text before each passage; None: the model's own prompt for documents, if it has one.
            batch_size: Of the longest passages, how many a transformer encodes at a time on a GPU; of shorter ones it
                takes more. On a CPU it takes some hundreds of tokens at a time. 1: always a single passage. Other
                models: passages per forward pass.
            dtype: `"float32"`, or `"float16"` for half the disk and memory and scores to three digits.
            devices: Run a process of the model on each of these, such as `["cuda:0", "cuda:1"]` or `["cpu", "cpu"]`;
                None: the model works here, where it is. (With `devices`, a script needs `if __name__ == "__main__":`.)
            normalize: Scale vectors to length 1; None: if the similarity is cosine.
            similarity: `"cosine"`, `"dot"` or `"euclidean"`; None: the model's own, and cosine for a function.
            fingerprint: For a function: a name that changes whenever its vectors do.

        Returns:
            The vectors, see `Embeddings`.

        Raises:
            TypeError: `model` is something else.
            ValueError: A vector is zero, NaN or infinite, and the message names the passage; a function comes without
                `fingerprint`; an option is unknown.
        """
        from hnm_datasets.models.embedding_job import embed_passages

        return embed_passages(
            self,
            model,
            prompt=prompt,
            batch_size=batch_size,
            dtype=dtype,
            devices=devices,
            normalize=normalize,
            similarity=similarity,
            fingerprint=fingerprint,
        )

    def embed_sparse(
        self,
        model: SparseModel,
        *,
        prompt: str | None = None,
        batch_size: int = 32,
        max_active_dims: int | None = None,
        devices: Sequence[str] | None = None,
        fingerprint: str | None = None,
    ) -> SparseEmbeddings:
        """Encode every passage with a sparse model, once, into memory-mapped terms and weights in the cache directory.

        As with `embed`, a second call finds them there, an interrupted run resumes, passages with the same text are
        encoded once, and several processes share the work. Weights may be negative. A passage without any is never
        found.

        Args:
            model: A `SparseEncoder`, its path or Hub id, or a function from a list of texts to a matrix of shape
                (B, V): of scipy, of torch, or an array.
            prompt: The text before each passage; None: the model's own prompt for documents, if it has one.
            batch_size: Passages per forward pass; for SPLADE on a GPU as in `embed`.
            max_active_dims: Keep this many of the largest weights of a passage, for a smaller index and a faster
                search; None: as many as the model keeps.
            devices: As in `embed`.
            fingerprint: For a function: a name that changes whenever its answers do.

        Returns:
            The vectors, see `SparseEmbeddings`. They are compared by the dot product, or by the cosine if the model is.

        Raises:
            TypeError: `model` is something else.
            ValueError: A weight is NaN, infinite or beyond 1e15, and the message names the passage; the model compares
                by a distance; a function comes without `fingerprint`; an option is out of range.
        """
        from hnm_datasets.models.sparse_embedding_job import embed_passages_sparse

        return embed_passages_sparse(
            self,
            model,
            prompt=prompt,
            batch_size=batch_size,
            max_active_dims=max_active_dims,
            devices=devices,
            fingerprint=fingerprint,
        )

    def embed_tokens(
        self,
        model: TokenModel,
        *,
        prompt: str | None = None,
        batch_size: int = 32,
        token_pooling: BaseTokenPooling | None = None,
        devices: Sequence[str] | None = None,
        fingerprint: str | None = None,
    ) -> TokenEmbeddings:
        """Encode every passage with a model of token vectors, such as ColBERT, once, for late interaction.

        As with `embed`, a second call finds the vectors in the cache directory, an interrupted run resumes, passages
        with the same text are encoded once, and several processes share the work. The vectors are kept in half
        precision: a million passages of 60 tokens and 128 dimensions take 15 GB.

        Args:
            model: A `MultiVectorEncoder`, its path or Hub id, or a function from a list of texts to an array of shape
                (tokens, D) for each.
            prompt: The text before each passage; None: the model's own prompt for documents, if it has one.
            batch_size: Passages per forward pass.
            token_pooling: Merges the tokens of a passage, for fewer vectors: a `BaseTokenPooling` such as
                `HierarchicalTokenPooling(pool_factor=2)`; None: as the model does.
            devices: As in `embed`.
            fingerprint: For a function: a name that changes whenever its vectors do.

        Returns:
            The vectors, see `TokenEmbeddings`.

        Raises:
            TypeError: `model` or `token_pooling` is something else.
            ValueError: A passage has no token, or a vector that is NaN, infinite or beyond 65,504, and the message
                names it; a function comes without `fingerprint`; an option is out of range.
        """
        from hnm_datasets.models.token_embedding_job import embed_passages_by_tokens

        return embed_passages_by_tokens(
            self,
            model,
            prompt=prompt,
            batch_size=batch_size,
            token_pooling=token_pooling,
            devices=devices,
            fingerprint=fingerprint,
        )

    # ---- what is the same as what --------------------------------------------------------------------------------

    @property
    def text_codes(self) -> NDArray[np.int64]:
        """The first row whose text is the same but for Unicode form, case and white space. Shape (N,)."""
        return self._files.text_codes

    @property
    def copy_codes(self) -> NDArray[np.int64]:
        """The first row among the copies of a passage: what is known of one holds for all of them. Shape (N,).

        Copies have the same text, each with its title or without it. Without titles these are the `text_codes`.
        """
        return self._files.copy_codes

    @property
    def group_codes(self) -> NDArray[np.int64]:
        """The first row of the same group; a passage without one is a group of its own. Shape (N,).

        Raises:
            ValueError: The corpus was made without groups.
        """
        if self._files.group_codes is None:
            raise ValueError(
                "This corpus has no groups. Name the column that tells which document a passage was cut from: "
                "Corpus.from_dataset(..., group_column='document_id')."
            )
        return self._files.group_codes

    def value_codes(self, name: str) -> NDArray[np.int64]:
        """Return the first row with the same value of a column; of `"group"`, the `group_codes`. Shape (N,).

        Args:
            name: `"group"`, or one of the `columns` that were kept when the corpus was made.

        Raises:
            KeyError: The corpus does not keep such a column.
        """
        if name == "group":
            return self.group_codes
        codes = self._files.value_codes
        if name not in codes:
            raise KeyError(
                f"This corpus does not keep a column {name!r}, only {list(codes)} beside its texts. Make it again with "
                f"it: Corpus.from_dataset(..., columns=[{name!r}])."
            )
        return codes[name]

    def copy_counts(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many passages have each of these `copy_codes`, 0 for -1. Shape (B,) → (B,)."""
        return self._files.copy_counts.passages(codes)

    def group_counts(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many passages have each of these `group_codes`. Shape (B,) → (B,)."""
        return self._files.group_counts.passages(codes)

    def find_texts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the first row with the same text but for Unicode form, case and white space, or -1. Shape (B,)."""
        return self.find_digests(normalized_digests(texts))

    def find_digests(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return what `find_texts` does, given the texts' `normalized_digests`. Shape (B, 2) → (B,)."""
        return self._files.by_text.find(digests)

    def find_copies(self, texts: Sequence[str] | pa.Array) -> NDArray[np.int64]:
        """Return the `copy_codes` of the passages with such a text, with their titles or without, or -1. Shape (B,)."""
        return self.find_copies_of(normalized_digests(texts))

    def find_copies_of(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return what `find_copies` does, given the texts' `normalized_digests`. Shape (B, 2) → (B,)."""
        rows, copies = self.find_digests(digests), self._files.copies
        if copies is None:
            return rows
        missing = np.flatnonzero(rows < 0)
        rows[missing] = copies.by_body.find(digests[missing])
        return np.where(rows < 0, -1, copies.codes[rows])

    @property
    def _files(self) -> CorpusFiles:
        return open_files(self.fingerprint)


def check_corpus(owner: str, corpus: object) -> None:
    """Raise a TypeError that names the step or index unless it was given a corpus."""
    if not isinstance(corpus, Corpus):
        raise TypeError(f"{owner}: corpus must be a Corpus, got {type(corpus).__name__}. See Corpus.from_dataset.")
