"""The ranking loss that masks known and likely false negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, Literal, TypeAlias

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim
from torch import Tensor

from hnm_datasets import checks
from hnm_datasets.models.sentence_transformers_internals import (
    CachedLossMixin,
    embed_columns,
    has_static_embedding_input,
)
from hnm_datasets.training.guide import Guide
from hnm_datasets.training.labels import Labels
from hnm_datasets.training.metrics import Observed, observed, record, share
from hnm_datasets.training.ranking import RankingBatch, RankingRows
from hnm_datasets.training.ranking_options import RankingOptions
from hnm_datasets.training.token_labels import token_labels

Direction: TypeAlias = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
HardnessMode: TypeAlias = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]


class HardNegativesRankingLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` that excludes known and likely false negatives from its denominator.

    For each query, the loss masks three kinds of passages in the batch: the query's other known positives, wherever
    they occur in the batch; exact duplicates of its positives; and the padding of rows with too few negatives. The
    known positives are in the label column of `live_negatives`. Without labels, rows of the batch with the same query
    share their positives; texts with the same tokens are the same text. If no text occurs twice in a batch, and without
    `margin`, the value and gradients equal those of `MultipleNegativesRankingLoss`.

    For rows with labels, or with `margin`, the trainer logs the masked share beside the loss, also in evaluations:
    `masked_in_batch` is the masked share of the other rows' passages, and `masked_mined` that of the row's own
    negatives. With `likely_weight`, they include passages that are only weighted down. Each number is the mean over the
    batches since the last log entry, on the first process only. Wrappers such as `MatryoshkaLoss` keep these logs.

    Args:
        model: The model in training.
        scale: Multiplies the similarities; the inverse of the temperature.
        similarity_fct: Function that returns the pairwise similarities of two tensors of embeddings.
        gather_across_devices: Use the passages of all devices as in-batch negatives.
        directions: As in `MultipleNegativesRankingLoss`. `margin` applies only to `"query_to_doc"`.
        partition_mode: As in `MultipleNegativesRankingLoss`.
        hardness_mode: As in `MultipleNegativesRankingLoss`.
        hardness_strength: As in `MultipleNegativesRankingLoss`.
        in_batch: Use the passages of other rows as negatives; False: only the row's own negatives.
        margin: Also mask likely false negatives: passages whose similarity to the query exceeds that of its positive by
            more than this, in units of the similarity. Qwen3-Embedding uses 0.1 (Zhang et al. 2025,
            https://arxiv.org/abs/2506.05176). May be negative. None: mask only known false negatives.
        guide: A model whose similarities are compared with `margin`, instead of those of the model in training
            (Solatorio 2024, *GISTEmbed*, https://arxiv.org/abs/2402.16829). It embeds whole batches, also in the cached
            loss.
        likely_weight: The weight of likely false negatives in the denominator, from 0 (masked) to less than 1.
        distill_weight: Weight of a distillation term: the KL divergence between the teacher's and the model's score
            distributions over the row's own passages. Needs `live_negatives(..., teacher=...)`.
        teacher_temperature: Divides the teacher's scores before the softmax.
        log_masked: Log the masked shares in the trainer.

    Raises:
        ValueError: An option is out of range, or two options contradict each other.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models
        >>> tokenizer = Tokenizer(models.WordLevel({"plates": 0, "waves": 1}, unk_token="waves"))
        >>> model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
        >>> loss = HardNegativesRankingLoss(model, margin=0.1)
        >>> loss.get_config_dict()["margin"]
        0.1
    """

    def __init__(
        self,
        model: SentenceTransformer,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        gather_across_devices: bool = False,
        directions: tuple[Direction, ...] = ("query_to_doc",),
        partition_mode: Literal["joint", "per_direction"] = "joint",
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
        *,
        in_batch: bool = True,
        margin: float | None = None,
        guide: SentenceTransformer | None = None,
        likely_weight: float = 0.0,
        distill_weight: float = 0.0,
        teacher_temperature: float = 1.0,
        log_masked: bool = True,
    ) -> None:
        super().__init__(
            model, scale, similarity_fct, gather_across_devices, directions, partition_mode, hardness_mode,
            hardness_strength,
        )  # fmt: skip
        name = type(self).__name__
        self.in_batch = checks.yes_or_no(name, "in_batch", in_batch)
        self.log_masked = checks.yes_or_no(name, "log_masked", log_masked)
        self.margin = None if margin is None else checks.real_number(name, "margin", margin)
        self.likely_weight = checks.real_number(name, "likely_weight", likely_weight)
        self.distill_weight = checks.real_number(name, "distill_weight", distill_weight)
        self.teacher_temperature = checks.real_number(name, "teacher_temperature", teacher_temperature, above=0)
        if guide is not None and margin is None:
            raise ValueError(
                f"{name}: guide needs a margin: how far above the positive the guide must score a passage to mask it."
            )
        try:
            self._options()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        # Not a child module: its weights must not be trained, moved or saved with those of the model.
        self._guide = () if guide is None else (Guide(guide, model),)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """Return the loss of a batch."""
        features = list(sentence_features)
        known = token_labels(features) if labels is None else labels
        guided = self._guided(features)
        return self._loss(embed_columns(self.model, features), known, guided)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """Return the loss of a batch that is already embedded; a guide is not supported here."""
        if self._guide:
            raise ValueError("The guide needs the texts. Call the loss with features, not with embeddings.")
        return self._loss(embeddings, labels, None)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options, for the model card."""
        own = ("in_batch", "margin", "likely_weight", "distill_weight", "teacher_temperature")
        options = super().get_config_dict() | {name: getattr(self, name) for name in own}
        return options | ({"guide": self._guide[0].name} if self._guide else {})

    def _guided(self, features: list[dict[str, Tensor]]) -> list[Tensor] | None:
        return self._guide[0].embeddings(features, self.model.device) if self._guide else None

    def _options(self) -> RankingOptions:
        """Return the current options; they may change between two training steps."""
        return RankingOptions(**{field.name: getattr(self, field.name) for field in fields(RankingOptions)})

    def _loss(
        self,
        embeddings: list[Tensor],
        labels: Tensor | Labels | None,
        guided: list[Tensor] | None,
        rows_at_a_time: int | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """Return the loss of all rows, computed on `rows_at_a_time` rows of the similarity matrix at once."""
        if len(embeddings) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two text columns, the query and its positive, got "
                f"{len(embeddings)}."
            )
        options = self._options()
        batch = RankingBatch(options, embeddings, labels, guided)
        size = len(batch.rows)
        step = rows_at_a_time or size
        total = torch.zeros((), device=batch.queries.device)
        tallies: list[dict[str, Tensor]] = []
        for start in range(0, size, step):
            rows = RankingRows(options, batch, batch.rows[start : start + step])
            part = rows.losses().sum() / size
            if with_backward:
                torch.autograd.backward(part)
                part = part.detach()
            total = total + part
            tallies.append(rows.tally)
        if self.log_masked and (isinstance(labels, Tensor) or self.margin is not None):
            record(self.model, _numbers(tallies))
        return total


class CachedHardNegativesRankingLoss(CachedLossMixin, HardNegativesRankingLoss):
    """`HardNegativesRankingLoss` with cached gradients: large batches in the memory of small ones.

    It embeds the batch twice, in mini-batches (Gao et al. 2021, https://arxiv.org/abs/2101.06983). Values, gradients
    and masks are the same.

    Args:
        model: The model in training; static embeddings are not supported.
        mini_batch_size: The number of texts to embed, and of rows to compare, at once.
        mini_batch_num_tokens: The number of tokens to embed at once, instead of a number of texts; as in
            `CachedMultipleNegativesRankingLoss`.
        show_progress_bar: Show a progress bar for the mini-batches.
        **options: Options of `HardNegativesRankingLoss`.

    Raises:
        ValueError: An option is out of range, or the model uses static embeddings.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> loss = CachedHardNegativesRankingLoss(model, mini_batch_size=16, margin=0.1)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: SentenceTransformer,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if has_static_embedding_input(model):
            raise ValueError(
                "CachedHardNegativesRankingLoss cannot split the inputs of a StaticEmbedding into mini-batches. Use "
                "HardNegativesRankingLoss, which handles large batches with such a model."
            )
        self.mini_batch_size = checks.whole_number(type(self).__name__, "mini_batch_size", mini_batch_size, low=1)
        if mini_batch_num_tokens is not None:
            mini_batch_num_tokens = checks.whole_number(
                type(self).__name__, "mini_batch_num_tokens", mini_batch_num_tokens, low=1
            )
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.show_progress_bar = show_progress_bar

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """Return the loss of a batch."""
        features = list(sentence_features)
        with torch.no_grad():
            guided = self._guided(features)
        # The mixin passes its second argument unchanged to `calculate_loss`.
        carried: Any = (token_labels(features) if labels is None else labels, guided)
        return self.forward_cached(features, carried)

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        """Return the loss of embedded mini-batches, for the mixin."""
        known, guided = labels
        embeddings = [torch.cat(column) for column in reps]
        return self._loss(embeddings, known, guided, self.mini_batch_size, with_backward=with_backward)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options, for the model card."""
        own = {"mini_batch_size": self.mini_batch_size, "mini_batch_num_tokens": self.mini_batch_num_tokens}
        return super().get_config_dict() | own


def _numbers(tallies: list[dict[str, Tensor]]) -> dict[str, Observed]:
    """Return the numbers to log, from the counts of all parts of the batch."""
    totals = {name: torch.stack([one[name] for one in tallies]).sum() for name in tallies[0]}
    shares = {
        f"masked_{kind}": share(totals[f"masked_{kind}"], totals[kind])
        for kind in ("in_batch", "mined")
        if kind in totals
    }
    return shares | {name: observed(totals[name]) for name in ("ranking", "distillation") if name in totals}
