"""The mathematics of the ranking loss: positives, masks and losses of the rows of a batch."""

from __future__ import annotations

import torch
from sentence_transformers.util import all_gather, all_gather_with_grad, get_rank
from torch import Tensor

from hnm_datasets.training.labels import PADDING, Labels, unpack
from hnm_datasets.training.ranking_options import RankingOptions


class RankingBatch:
    """The embeddings and known positives of a batch, over all devices if `gather_across_devices` is set."""

    def __init__(
        self,
        options: RankingOptions,
        embeddings: list[Tensor],
        labels: Tensor | Labels | None,
        guided: list[Tensor] | None,
    ) -> None:
        queries, docs = embeddings[0], embeddings[1:]
        size, offset = len(queries), 0
        known = unpack(labels, len(docs)) if isinstance(labels, Tensor) else labels
        if known is not None and len(known.passages) != size:
            raise ValueError(
                f"The batch has labels for {len(known.passages)} rows but texts for {size}. Both must come from the "
                f"same rows of live_negatives."
            )
        if options.gather_across_devices:
            queries = all_gather_with_grad(queries)
            docs = [all_gather_with_grad(column) for column in docs]
            guided = None if guided is None else [all_gather(column) for column in guided]
            offset = get_rank() * size
        world = len(queries)
        self.queries, self.positives = queries, docs[0]
        self.docs = torch.cat(docs)
        self.world, self.columns = world, len(docs)
        #: The positions of this device's rows among all rows.
        self.rows = torch.arange(offset, offset + size, device=queries.device)
        self.guided = None if guided is None else (guided[0], torch.cat(guided[1:]))
        if known is None:
            # Without labels, each passage has its own key.
            self.keys = torch.arange(len(self.docs), device=queries.device)
            known_positives = self.keys[:world, None]
            self.scores = None
        else:
            passages, known_positives = known.passages, known.positives
            if options.gather_across_devices:
                passages, known_positives = all_gather(passages), _gather_widest(known_positives)
            # Column by column, like the embeddings.
            self.keys = passages.T.reshape(-1)
            self.scores = known.scores
        self.offset = offset
        self.padding = self.keys == PADDING
        if options.distill_weight and self.scores is None:
            raise ValueError(
                "distill_weight needs the teacher's scores in the label column: "
                "live_negatives(rows, corpus, n, teacher='teacher')."
            )
        self.known_positives = known_positives.contiguous()
        self.distinct, self.codes = torch.unique(self.keys, return_inverse=True)

    def known(self, rows: Tensor) -> Tensor:
        """Mark the passages that are known positives of some rows' queries. Shape (b, N)."""
        return self._members(self.distinct, self.known_positives[rows])[:, self.codes]

    def knowing(self, rows: Tensor) -> Tensor:
        """Mark the queries that have the positives of some rows among their known positives. Shape (b, W)."""
        wanted, positions = torch.unique(self.keys[rows], return_inverse=True)
        return self._members(wanted, self.known_positives)[:, positions].T

    def sharing(self, rows: Tensor) -> Tensor:
        """Mark the queries that share a known positive with some rows' queries. Shape (b, W)."""
        members = self._members(torch.unique(self.known_positives[rows]), self.known_positives).float()
        return members[rows] @ members.T > 0

    @staticmethod
    def _members(wanted: Tensor, known: Tensor) -> Tensor:
        """Mark the keys that are among the known positives of each query. Shapes (K,) sorted, (b, P) → (b, K)."""
        positions = torch.searchsorted(wanted, known).clamp(max=len(wanted) - 1)
        here = (wanted[positions] == known) & (known != PADDING)
        members = torch.zeros(len(known), len(wanted) + 1, dtype=torch.bool, device=known.device)
        # Keys that are not wanted go to an extra column.
        return members.scatter_(1, torch.where(here, positions, len(wanted)), True)[:, :-1]


def _gather_widest(known: Tensor) -> Tensor:
    """Gather tensors that differ in their second dimension, padded to the widest."""
    widest = torch.tensor([known.shape[1]], device=known.device)
    width = int(all_gather(widest).max())
    filled = torch.full((len(known), width), PADDING, dtype=known.dtype, device=known.device)
    filled[:, : known.shape[1]] = known
    return all_gather(filled)


class RankingRows:
    """Some of this device's rows, compared with all queries and passages of the batch."""

    def __init__(self, options: RankingOptions, batch: RankingBatch, rows: Tensor) -> None:
        self.options, self.batch, self.rows = options, batch, rows
        here = torch.arange(len(rows), device=rows.device)
        owners = torch.arange(batch.world, device=rows.device).repeat(batch.columns)
        #: The row's own passages; its positive; the passages to mask.
        self.own = owners == rows[:, None]
        self.positive = torch.zeros_like(self.own)
        self.positive[here, rows] = True
        self.known = batch.known(rows)
        self.masked = (self.known | batch.padding) & ~self.positive
        self.tally: dict[str, Tensor] = {}

    def losses(self) -> Tensor:
        """Return the loss of each row, and count the masked passages. Shape (b,)."""
        options, batch, rows = self.options, self.batch, self.rows
        queries = batch.queries[rows]
        similarity = options.similarity_fct(queries, batch.docs)
        likely = self._likely(similarity)
        logits = similarity * options.scale
        if options.hardness_mode is not None and options.hardness_strength > 0:
            logits = logits + self._penalty(similarity)
        if likely is not None:
            weight = torch.tensor(options.likely_weight, dtype=logits.dtype, device=logits.device)
            logits = torch.where(likely, logits + torch.log(weight), logits)
        logits = logits.masked_fill(self.masked if options.in_batch else self.masked | ~self.own, -torch.inf)
        self._count(likely)
        columns = {"query_to_doc": logits} | self._other_directions(queries)
        positives = logits[self.positive]
        if options.partition_mode == "joint":
            normalizer = torch.logsumexp(torch.cat(list(columns.values()), dim=1), dim=1)
        else:
            sums = [torch.logsumexp(one, dim=1) for one in columns.values()]
            normalizer = torch.stack(sums).mean(dim=0)
        losses = normalizer - positives
        if options.distill_weight:
            divergences = self._divergences(similarity)
            share = 1 / len(batch.rows)
            self.tally |= {
                "ranking": losses.detach().sum() * share,
                "distillation": options.distill_weight * divergences.detach().sum() * share,
            }
            losses = losses + options.distill_weight * divergences
        return losses

    def _likely(self, similarity: Tensor) -> Tensor | None:
        """Mark the passages that are likely relevant according to the model or the guide. Shape (b, N)."""
        options, batch = self.options, self.batch
        if options.margin is None:
            return None
        judged = similarity.detach()
        if batch.guided is not None:
            judged = options.similarity_fct(batch.guided[0][self.rows], batch.guided[1])
        limits = judged[self.positive][:, None] + options.margin
        return (judged > limits) & ~self.positive

    def _penalty(self, similarity: Tensor) -> Tensor:
        """Return the term that hardness weighting adds to the logits. Shape (b, N)."""
        if self.options.hardness_mode == "in_batch_negatives":
            weighed = ~self.own
        elif self.options.hardness_mode == "hard_negatives":
            weighed = self.own & ~self.positive
        else:
            weighed = ~self.positive
        return self.options.hardness_strength * similarity.detach() * weighed

    def _other_directions(self, queries: Tensor) -> dict[str, Tensor]:
        options, batch, rows = self.options, self.batch, self.rows
        columns = {}
        same = rows[:, None] == torch.arange(batch.world, device=rows.device)
        if "query_to_query" in options.directions:
            # Queries that share a positive are not negatives of each other.
            hidden = same | batch.sharing(rows)
            columns["query_to_query"] = options.similarity_fct(queries, batch.queries).masked_fill(hidden, -torch.inf)
        if "doc_to_query" in options.directions:
            # Mask queries for which the row's positive is also relevant.
            hidden = batch.knowing(rows) & ~same
            similarity = options.similarity_fct(batch.queries, batch.positives[rows]).T
            columns["doc_to_query"] = similarity.masked_fill(hidden, -torch.inf)
        if "doc_to_doc" in options.directions:
            hidden = self.own | self.known | batch.padding
            similarity = options.similarity_fct(batch.docs, batch.positives[rows]).T
            columns["doc_to_doc"] = similarity.masked_fill(hidden, -torch.inf)
        return {name: one * options.scale for name, one in columns.items()}

    def _divergences(self, similarity: Tensor) -> Tensor:
        """Return the KL divergence from the teacher to the student over each row's own passages. Shape (b,)."""
        options, batch = self.options, self.batch
        assert batch.scores is not None
        positions = self.rows[:, None] + batch.world * torch.arange(batch.columns, device=self.rows.device)
        padding = batch.padding[positions]
        student = (similarity.gather(1, positions) * options.scale).masked_fill(padding, -torch.inf)
        scores = batch.scores[self.rows - batch.offset].to(student.dtype) / options.teacher_temperature
        teacher = torch.log_softmax(scores.masked_fill(padding, -torch.inf), dim=1)
        differences = (teacher - torch.log_softmax(student, dim=1)).masked_fill(padding, 0.0)
        return (teacher.exp() * differences).sum(dim=1)

    def _count(self, likely: Tensor | None) -> None:
        gone = self.masked if likely is None else self.masked | likely
        kinds = {"in_batch": ~self.own, "mined": self.own & ~self.positive}
        for name, kind in kinds.items():
            if name == "in_batch" and not self.options.in_batch:
                continue
            there = kind & ~self.batch.padding
            self.tally |= {name: there.sum(), f"masked_{name}": (there & gone).sum()}
