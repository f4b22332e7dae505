"""What the training recipes share: the student, the split, the trainer, the measures before and after."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _common import load_bi_encoder
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import TrainerCallback

from hnm_datasets import Corpus, load_beir, load_sample
from hnm_datasets.training.evaluation import retrieval_evaluator
from hnm_datasets.training.live_rows import LiveNegatives


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a training."""
    parser.add_argument("--model", help="a path or Hub id (default: static embeddings of MiniLM's words, for a CPU)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32, help="pairs per step (default: 32)")
    parser.add_argument("--learning-rate", type=float, help="default: 2e-5, and 2e-2 for static embeddings")
    parser.add_argument("--seed", type=int, default=0)


def load_student(name: str | None) -> SentenceTransformer:
    """Load a model; by default make one that trains in seconds: the mean of MiniLM's word embeddings."""
    if name is not None:
        return SentenceTransformer(name)
    minilm = load_bi_encoder(None)
    words = minilm[0].auto_model.get_input_embeddings().weight.detach()
    static = StaticEmbedding(minilm.tokenizer.backend_tokenizer, embedding_weights=words.clone())
    return SentenceTransformer(modules=[static], device="cpu")


def load_split(args: argparse.Namespace) -> tuple[Corpus, Dataset, Dataset]:
    """Load the passages and the queries to train and to test on."""
    if args.source:
        corpus, train = load_beir(args.source, split="train")
        return corpus, train, load_beir(args.source, split="test")[1]
    corpus, queries = load_sample()
    split = queries.train_test_split(test_size=0.25, seed=0)
    return corpus, split["train"], split["test"]


def train(
    args: argparse.Namespace,
    student: SentenceTransformer,
    live: LiveNegatives,
    loss,
    corpus: Corpus,
    test: Dataset,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train by the stock trainer, tell nDCG@10 before and after, and save the model with its card."""
    is_static = isinstance(student[0], StaticEmbedding)
    evaluator = retrieval_evaluator(corpus, test, batch_size=256, write_csv=False, name="test")
    before = evaluator(student)
    with tempfile.TemporaryDirectory() as folder:
        options = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch,
            learning_rate=args.learning_rate or (2e-2 if is_static else 2e-5),
            warmup_steps=args.steps // 10,
            logging_steps=max(1, args.steps // 10),
            save_strategy="no",
            seed=args.seed,
            report_to=[],
        )
        trainer = SentenceTransformerTrainer(
            student, options, train_dataset=live, loss=loss, evaluator=evaluator, callbacks=list(callbacks)
        )
        trainer.train()
    after = evaluator(student)
    args.output.mkdir(parents=True, exist_ok=True)
    student.save_pretrained(str(args.output))
    for name in ("ndcg@10", "mrr@10", "recall@100"):
        key = next((key for key in before if key.endswith(name)), None)
        if key is not None:
            print(f"{name:>10}: {before[key]:.3f} before, {after[key]:.3f} after")
    print(f"written: {Path(args.output)} (the model and its card)")
