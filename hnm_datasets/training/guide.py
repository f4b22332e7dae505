"""A guide: a model that judges the passages of a batch instead of the model in training."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor

from hnm_datasets.models.sentence_transformers_internals import embed_columns, has_static_embedding_input


class Guide:
    """Embeds the texts of a batch with a guide model.

    Args:
        guide: The guide model.
        student: The model in training; the batch holds its tokens.
    """

    def __init__(self, guide: SentenceTransformer, student: SentenceTransformer) -> None:
        self.guide = guide
        self.name = guide.model_card_data.base_model or type(guide).__name__
        student_tokenizer, guide_tokenizer = (getattr(model, "tokenizer", None) for model in (student, guide))
        self.shares_tokens = (
            _vocabulary(student_tokenizer) == _vocabulary(guide_tokenizer)
            and student.max_seq_length == guide.max_seq_length
        )
        self.tokenizer = student_tokenizer
        if not self.shares_tokens and has_static_embedding_input(student):
            raise ValueError(
                "A guide with another tokenizer needs the texts, which are decoded from the student's tokens. This "
                "does not work for a student with StaticEmbedding. Choose a guide with the same tokenizer."
            )

    def embeddings(self, features: list[dict[str, Tensor]], device: torch.device) -> list[Tensor]:
        """Embed the texts of each column and move the vectors to a device."""
        # Models add their outputs to the features they are given.
        copies = [dict(column) for column in features]
        # The guide may be in training mode, or be the student itself: turn dropout off and restore the modes afterward.
        modes = [(module, module.training) for module in self.guide.modules()]
        self.guide.eval()
        try:
            with torch.no_grad():
                if self.shares_tokens:
                    copies = [batch_to_device(column, self.guide.device) for column in copies]
                else:
                    copies = [self._retokenized(column) for column in copies]
                return [column.clone().to(device) for column in embed_columns(self.guide, copies)]
        finally:
            for module, training in modes:
                module.training = training

    def _retokenized(self, column: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self.tokenizer is not None
        texts = self.tokenizer.batch_decode(column["input_ids"], skip_special_tokens=True)
        return batch_to_device(self.guide.preprocess(texts), self.guide.device)


def _vocabulary(tokenizer: Any) -> Any:
    return tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else tokenizer
