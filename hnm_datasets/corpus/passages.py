"""The corpus: passages by id, memory-mapped and identified by a content fingerprint."""

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
from hnm_datasets.storage.about import About
from hnm_datasets.storage.folders import build_once, cache_root

if TYPE_CHECKING:
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    from hnm_datasets.models.embeddings import Embeddings
    from hnm_datasets.models.handles import EmbeddingModel, SparseModel, TokenModel
    from hnm_datasets.models.sparse_embeddings import SparseEmbeddings
    from hnm_datasets.models.token_embeddings import TokenEmbeddings

#: `id`, `text`, `title`, `group` and the other columns of the corpus; None where there is no value.
Passage: TypeAlias = dict[str, str | None]


class Corpus:
    """Passages by id, memory-mapped from the `datasets` cache directory.

    Create one with `Corpus.from_dataset`, `load_beir` or `from_pairs`. A corpus pickles to its content fingerprint, so
    a transform that uses one stays small and hashes to the same value in every process. After unpickling, it is opened
    from the cache directory on first use.

    The text of a passage is its title and its text, joined by a space.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend only on the ids, texts, titles, groups and other columns of the
            corpus.

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
        """Create a corpus from a dataset with one passage per row.

        The first call copies the passages into the cache directory, in memory-mapped files with an index by id. Later
        calls with the same passages reuse these files.

        Args:
            dataset: The passages: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
            id_column: The column of unique ids: strings, or whole numbers, which become strings.
            text_column: The column of texts: strings, not null.
            title_column: The column of titles; null is an empty title. By default the column `title` if it exists;
                None: no titles.
            group_column: The column that names the document each passage comes from; a passage with null is a group of
                its own. By default the column `group` if it exists; None: no groups.
            columns: Other columns to keep, such as a language or a site, for `SampleNegatives(per=...)`: strings or
                whole numbers, which become strings; null is no value. They are part of the fingerprint: with other
                columns, indexes and vectors are built again.

        Raises:
            KeyError: A named column does not exist.
            TypeError: The dataset has an unsupported type, or a column does not hold strings.
            ValueError: The dataset is empty, an id is repeated, or an id or text is null or empty.
        """
        source = Source(dataset, id_column, text_column, title_column, group_column, columns)
        return corpus_of(source, "Corpus.from_dataset", source.dataset_name)

    # ---- properties ----------------------------------------------------------------------------------------------

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
        """Whether the corpus has a `group` column that names the source document of each passage."""
        return self._files.groups is not None

    @property
    def columns(self) -> dict[str, pa.LargeStringArray]:
        """The memory-mapped columns, as in `Corpus.from_dataset`: `id`, `text`, and `title` and `group` if they exist.

        The other columns follow. Null values are empty strings here.
        """
        return {name: column for name, column in self._files.columns.items() if column is not None}

    # ---- passages ------------------------------------------------------------------------------------------------

    def __getitem__(self, which: str | int) -> Passage:
        """Return one passage as a dict of `id`, `text`, `title`, `group` and the other columns of the corpus.

        Args:
            which: An id (string), or a row number. Negative row numbers count from the end.

        Raises:
            IndexError: The row does not exist.
            KeyError: The id does not exist.
            TypeError: The argument is neither, such as a slice.
        """
        if isinstance(which, str):
            return next(self._passages(self.rows([which])))
        if isinstance(which, bool) or not hasattr(which, "__index__"):
            raise TypeError(
                f"corpus[...] returns one passage by its id (a string) or row number, got {which!r}. For several "
                f"passages use corpus.to_dataset()[...] or corpus.texts(corpus.rows(ids))."
            )
        row = operator.index(which)
        if not -len(self) <= row < len(self):
            raise IndexError(f"Row {row} is out of range for this corpus of {len(self)} passages.")
        return next(self._passages(np.array([row % len(self)])))

    def __iter__(self) -> Iterator[Passage]:
        """Yield all passages in order, as dicts like `corpus[0]`."""
        chunk = chunk_size(self._files.texts)
        for start in range(0, len(self), chunk):
            yield from self._passages(np.arange(start, min(start + chunk, len(self))))

    def __contains__(self, passage_id: object) -> bool:
        """Return whether the corpus has a passage with this id, a string or a whole number."""
        if not isinstance(passage_id, (str, int, np.integer)) or isinstance(passage_id, bool):
            raise TypeError(f"The id of a passage is a string or a whole number, got {passage_id!r}.")
        return bool(self.find([passage_id])[0] >= 0)

    def _passages(self, rows: NDArray[np.integer]) -> Iterator[Passage]:
        at, columns = pa.array(rows), self._files.columns
        found = [pa.nulls(len(rows)) if column is None else column.take(at) for column in columns.values()]
        for values in zip(*(column.to_pylist() for column in found), strict=True):
            passage = dict(zip(columns, values, strict=True))
            yield passage | {name: passage[name] or None for name in self._files.may_lack}

    def to_dataset(self) -> Dataset:
        """Return the passages as a `Dataset`, memory-mapped from the files of the corpus.

        Its columns are `id`, `text`, and `title`, `group` and the others if the corpus has them. A missing title is an
        empty string; a missing group is null. `Corpus.from_dataset` with the same `columns` restores the same corpus.

        Use it as a lookup for `sentence_transformers.util.resolve_ids`, which replaces the ids in mined rows with texts
        (without titles).

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
            validity = pc.not_equal(values, "").buffers()[1]
            columns[name] = pa.LargeStringArray.from_buffers(len(values), *values.buffers()[1:], validity)
        return Dataset(pa.table(columns), fingerprint=self.fingerprint)

    def rows(self, ids: Sequence[str] | pa.Array) -> NDArray[np.int64]:
        """Return the row number of each passage.

        Args:
            ids: B ids.

        Returns:
            Shape (B,).

        Raises:
            KeyError: An id is not in the corpus.
        """
        rows = self.find(ids)
        if (rows < 0).any():
            unknown = str(ids[int(np.flatnonzero(rows < 0)[0])])
            raise KeyError(f"The id {unknown!r} is not among the {len(self)} passages of this corpus.")
        return rows

    def find(self, ids: Sequence[str] | pa.Array) -> NDArray[np.int64]:
        """Return the row number of each passage, -1 for ids that are not in the corpus. Shape (B,)."""
        if is_one_value(ids):
            raise TypeError(f"Corpus.find and Corpus.rows expect a list of ids, got a single id: pass [{ids!r}].")
        return self._files.by_id.find(as_ids(as_arrow(ids, "ids", "Corpus"), "ids", "Corpus", "value {}".format))

    def ids(self, rows: NDArray[np.integer]) -> pa.Array:
        """Return the ids of passages by row number. Shape (B,) → (B,)."""
        return self._files.ids.take(pa.array(rows)).cast(pa.string())

    def texts(self, rows: NDArray[np.integer]) -> pa.Array:
        """Return the texts of passages (title and text) by row number. Shape (B,) → (B,)."""
        files, at = self._files, pa.array(rows)
        return passage_texts(None if files.titles is None else files.titles.take(at), files.texts.take(at))

    def text_sizes(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the size in bytes of passages (title and text) by row number. Shape (B,) → (B,)."""
        sizes = np.zeros(len(rows), dtype=np.int64)
        for column in (self._files.titles, self._files.texts):
            if column is not None:
                offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset :]
                # Count the space that joins title and text.
                sizes += offsets[rows + 1] - offsets[rows] + 1
        return sizes

    def iter_texts(self, chunk: int = _CHUNK, rows: range | None = None) -> Iterator[pa.Array]:
        """Yield the texts of passages (title and text) in order, in chunks.

        Args:
            chunk: Passages per chunk; chunks of long passages are smaller.
            rows: A range of rows; None: all.
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
        """Yield the texts of all passages without their titles in order, in chunks, if the corpus has titles.

        The text is null for a passage without a title and for a passage that is only a title.
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
        """Encode all passages with an embedding model into memory-mapped vectors in the cache directory.

        A second call with the same passages, weights, prompt and options reuses the vectors. An interrupted run resumes
        at the last unfinished shard of 4,096 passages, with byte-identical results. Passages with the same text are
        encoded once. If several processes make this call, such as those of `accelerate launch`, they share the work.

        Args:
            model: A `SentenceTransformer`, its path or Hub id, or a function from a list of texts to an array of shape
                (B, D).
            prompt: The text before each passage; None: the model's own prompt for documents, if it has one.
            batch_size: For transformers on a GPU, the batch size of the longest passages; batches of shorter passages
                are larger. On a CPU, batches have some hundreds of tokens, whatever this value is, except that 1 always
                encodes one passage at a time. For other models: passages per forward pass.
            dtype: `"float32"`, or `"float16"`, which halves disk and memory and keeps scores to three digits.
            devices: Devices that each run one process of the model, such as `["cuda:0", "cuda:1"]` or `["cpu", "cpu"]`;
                None: this process, on the model's device. With `devices`, a script needs `if __name__ == "__main__":`.
            normalize: Scale vectors to length 1; None: only if the similarity is cosine.
            similarity: `"cosine"`, `"dot"` or `"euclidean"`; None: the model's own, or cosine for a function.
            fingerprint: For a function: a name that you change whenever its vectors change.

        Returns:
            The vectors, see `Embeddings`.

        Raises:
            TypeError: `model` has an unsupported type.
            ValueError: A vector is zero, NaN or infinite (the message names the passage), a function has no
                `fingerprint`, or an option has an unknown value.
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
        """Encode all passages with a sparse model into memory-mapped terms and weights in the cache directory.

        As with `embed`, a second call reuses the vectors, an interrupted run resumes, passages with the same text are
        encoded once, and several processes share the work. Weights may be negative. A passage without weights is never
        retrieved.

        Args:
            model: A `SparseEncoder`, its path or Hub id, or a function from a list of texts to a matrix of shape
                (B, V): a scipy matrix, a torch tensor or an array.
            prompt: The text before each passage; None: the model's own prompt for documents, if it has one.
            batch_size: Passages per forward pass; for SPLADE on a GPU as in `embed`.
            max_active_dims: Keep only this many of the largest weights of a passage, for a smaller index and a faster
                search; None: the model's own limit.
            devices: As in `embed`.
            fingerprint: For a function: a name that you change whenever its output changes.

        Returns:
            The vectors, see `SparseEmbeddings`. The similarity is the dot product, or cosine if the model uses it.

        Raises:
            TypeError: `model` has an unsupported type.
            ValueError: A weight is NaN, infinite or beyond 1e15 (the message names the passage), the similarity of the
                model is a distance, a function has no `fingerprint`, or an option is out of range.
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
        """Encode all passages with a late-interaction model, such as ColBERT, into one vector per token.

        As with `embed`, a second call reuses the vectors in the cache directory, an interrupted run resumes, passages
        with the same text are encoded once, and several processes share the work. The vectors are stored in half
        precision: a million passages of 60 tokens and 128 dimensions take 15 GB.

        Args:
            model: A `MultiVectorEncoder`, its path or Hub id, or a function from a list of texts to an array of shape
                (tokens, D) for each.
            prompt: The text before each passage; None: the model's own prompt for documents, if it has one.
            batch_size: Passages per forward pass.
            token_pooling: Merges tokens of a passage to store fewer vectors: a `BaseTokenPooling` such as
                `HierarchicalTokenPooling(pool_factor=2)`; None: the model's own pooling, if any.
            devices: As in `embed`.
            fingerprint: For a function: a name that you change whenever its vectors change.

        Returns:
            The vectors, see `TokenEmbeddings`.

        Raises:
            TypeError: `model` or `token_pooling` has an unsupported type.
            ValueError: A passage has no tokens, or a value that is NaN, infinite or beyond 65,504 (the message names
                the passage), a function has no `fingerprint`, or an option is out of range.
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

    # ---- duplicates and groups -----------------------------------------------------------------------------------

    @property
    def text_codes(self) -> NDArray[np.int64]:
        """The first row with the same text, ignoring Unicode form, case and whitespace. Shape (N,)."""
        return self._files.text_codes

    @property
    def copy_codes(self) -> NDArray[np.int64]:
        """The first row among the copies of each passage. Shape (N,).

        Copies have the same text, each with or without its title. If one is relevant to a query, so are the others.
        In a corpus without titles these are the `text_codes`.
        """
        return self._files.copy_codes

    @property
    def group_codes(self) -> NDArray[np.int64]:
        """The first row of the same group; a passage without a group is a group of its own. Shape (N,).

        Raises:
            ValueError: The corpus has no groups.
        """
        if self._files.group_codes is None:
            raise ValueError(
                "This corpus has no groups. Name the column with the source document of each passage: "
                "Corpus.from_dataset(..., group_column='document_id')."
            )
        return self._files.group_codes

    def value_codes(self, name: str) -> NDArray[np.int64]:
        """Return the first row with the same value in a column; for `"group"`, the `group_codes`. Shape (N,).

        Args:
            name: `"group"`, or one of the `columns` passed to `Corpus.from_dataset`.

        Raises:
            KeyError: The corpus does not have this column.
        """
        if name == "group":
            return self.group_codes
        codes = self._files.value_codes
        if name not in codes:
            raise KeyError(
                f"This corpus has no column {name!r}; its extra columns are {list(codes)}. Create it again with this "
                f"column: Corpus.from_dataset(..., columns=[{name!r}])."
            )
        return codes[name]

    def copy_counts(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of passages with each of these `copy_codes`, 0 for code -1. Shape (B,) → (B,)."""
        return self._files.copy_counts.passages(codes)

    def group_counts(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of passages with each of these `group_codes`. Shape (B,) → (B,)."""
        return self._files.group_counts.passages(codes)

    def find_texts(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the first row with the same text, ignoring Unicode form, case and whitespace, or -1. Shape (B,)."""
        return self.find_digests(normalized_digests(texts))

    def find_digests(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Do the same as `find_texts`, given the `normalized_digests` of the texts. Shape (B, 2) → (B,)."""
        return self._files.by_text.find(digests)

    def find_copies(self, texts: Sequence[str] | pa.Array) -> NDArray[np.int64]:
        """Return the `copy_codes` of passages with this text, with or without their titles, or -1. Shape (B,)."""
        return self.find_copies_of(normalized_digests(texts))

    def find_copies_of(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Do the same as `find_copies`, given the `normalized_digests` of the texts. Shape (B, 2) → (B,)."""
        rows, copies = self.find_digests(digests), self._files.copies
        if copies is None:
            return rows
        missing = np.flatnonzero(rows < 0)
        rows[missing] = copies.by_body.find(digests[missing])
        return np.where(rows < 0, -1, copies.codes[rows])

    @property
    def _files(self) -> CorpusFiles:
        return open_files(self.fingerprint)


def corpus_of(source: Source, made_by: str, name: str | None) -> Corpus:
    """Make a corpus of passages, unless it is in the cache directory.

    Args:
        source: The passages.
        made_by: The public name of what makes it.
        name: What people call the passages, such as a path or Hub id.
    """
    corpus = Corpus(source.fingerprint())
    facts = {"corpus": corpus.fingerprint, "corpus_name": name, "passages": len(source.dataset)}
    about = About("corpora", made_by, facts=facts, options={"columns": list(source.columns.values())})
    build_once(cache_root() / "corpora", corpus.fingerprint, source.save, about)
    return corpus


def check_corpus(owner: str, corpus: object) -> None:
    """Raise a TypeError that names the step or index unless `corpus` is a `Corpus`."""
    if not isinstance(corpus, Corpus):
        raise TypeError(f"{owner}: corpus must be a Corpus, got {type(corpus).__name__}. See Corpus.from_dataset.")
