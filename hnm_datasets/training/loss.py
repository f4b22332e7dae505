"""The ranking loss that knows what it must not push away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, Literal, TypeAlias

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim
from torch import Tensor

from hnm_datasets import checks
from hnm_datasets.training.guide import Guide
from hnm_datasets.training.labels import Labels
from hnm_datasets.training.metrics import Observed, observed, record, share
from hnm_datasets.training.ranking import RankingBatch, RankingRows
from hnm_datasets.training.ranking_options import RankingOptions
from hnm_datasets.training.token_labels import token_labels

Direction: TypeAlias = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
HardnessMode: TypeAlias = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]


class HardNegativesRankingLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` that leaves known and likely false negatives out of its denominator.

    Of each query's other passages in the batch it masks: those that are known positives of the query (of which there
    may be several), however they came into the batch; exact duplicates of them; and the padding of rows that have too
    few negatives. Known positives come with the label column that `live_negatives` writes. Without it, rows of the
    batch with the same query know each other's positives; queries and passages are the same if the model reads the same
    tokens. Where no text comes twice in a batch, and without `margin`, value and
    gradients are those of the stock loss.

    How much is masked is logged by the trainer beside the loss, for rows with labels or with `margin`:
    `masked_in_batch` and `masked_mined`, as shares of the other rows' passages and of the row's own negatives; with
    `likely_weight` also what is only weighed down. Entries of an evaluation have them too. They are means over the
    batches since the last entry, of the first process alone where there are several. Wrappers such as `MatryoshkaLoss`
    change nothing about it.

    Args:
        model: The model that is trained.
        scale: What similarities are multiplied by, the inverse of the temperature.
        similarity_fct: From two tensors of embeddings to their similarities.
        gather_across_devices: Take the passages of all devices for negatives.
        directions: As in the stock loss. What `margin` says holds for `"query_to_doc"` alone.
        partition_mode: As in the stock loss.
        hardness_mode: As in the stock loss.
        hardness_strength: As in the stock loss.
        in_batch: Take other rows' passages for negatives; False: the row's own negatives alone.
        margin: Mask also likely false negatives: passages more similar to the query than its positive by more than
            this, in the units of the similarity; 0.1 in Qwen3-Embedding (Zhang et al. 2025,
            https://arxiv.org/abs/2506.05176). May be negative. None: none.
        guide: A model whose similarities `margin` uses instead of those of the model in training (Solatorio 2024,
            *GISTEmbed*, https://arxiv.org/abs/2402.16829). It embeds whole batches, also beside cached gradients.
        likely_weight: What likely false negatives count in the denominator, from 0 (masked) to below 1.
        distill_weight: Add the divergence of the model's scores of the row's own passages from the teacher's, times
            this; needs `live_negatives(..., teacher=...)`.
        teacher_temperature: Divides the teacher's scores before their softmax.
        log_masked: Let the trainer log what is masked.

    Raises:
        ValueError: An option is out of range, or two contradict each other.

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
            raise ValueError(f"{name}: guide needs a margin: by how much it must prefer a passage to the positive.")
        try:
            self._options()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        # Kept out of the module's children: its weights are not to be trained, moved or saved with the model's.
        self._guide = () if guide is None else (Guide(guide, model),)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """Return the loss of a batch."""
        features = list(sentence_features)
        known = token_labels(features) if labels is None else labels
        guided = self._guided(features)
        return self._loss(embed_columns(self.model, features), known, guided)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """Return the loss of a batch that is embedded already; not with a guide."""
        if self._guide:
            raise ValueError("A guide needs the texts: call the loss with features, not with embeddings.")
        return self._loss(embeddings, labels, None)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options, for the model card."""
        own = ("in_batch", "margin", "likely_weight", "distill_weight", "teacher_temperature")
        options = super().get_config_dict() | {name: getattr(self, name) for name in own}
        return options | ({"guide": self._guide[0].name} if self._guide else {})

    def _guided(self, features: list[dict[str, Tensor]]) -> list[Tensor] | None:
        return self._guide[0].embeddings(features, self.model.device) if self._guide else None

    def _options(self) -> RankingOptions:
        """Return the options as they are now: they may be changed between two steps."""
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
        """Return the loss of all rows, some rows of the matrix of similarities at a time."""
        if len(embeddings) < 2:
            raise ValueError(
                f"{type(self).__name__} needs two text columns at least, a query and its positive, got "
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

    Embeds the batch twice, in mini-batches (Gao et al. 2021, https://arxiv.org/abs/2101.06983); values, gradients and
    masks are the same.

    Args:
        model: The model that is trained; not one of static embeddings.
        mini_batch_size: Texts that are embedded, and rows that are compared, at a time.
        mini_batch_num_tokens: Tokens that are embedded at a time instead; as in the stock cached loss.
        show_progress_bar: Show one for the mini-batches.
        **options: Those of `HardNegativesRankingLoss`.

    Raises:
        ValueError: An option is out of range, or the model is of static embeddings.

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
                "CachedHardNegativesRankingLoss cannot cut the inputs of a StaticEmbedding into mini-batches, and need "
                "not: HardNegativesRankingLoss takes large batches of such a model."
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
        # The mixin hands its second argument on to `calculate_loss` as it is.
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
    """Return what is logged, given the counts of some rows each."""
    totals = {name: torch.stack([one[name] for one in tallies]).sum() for name in tallies[0]}
    shares = {
        f"masked_{kind}": share(totals[f"masked_{kind}"], totals[kind])
        for kind in ("in_batch", "mined")
        if kind in totals
    }
    return shares | {name: observed(totals[name]) for name in ("ranking", "distillation") if name in totals}
