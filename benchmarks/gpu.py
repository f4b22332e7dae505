"""How much does a GPU speed up search, embedding and training, and are the results the same?

    python benchmarks/gpu.py --model sentence-transformers/all-MiniLM-L6-v2     # texts of the embedded sample
    python benchmarks/gpu.py SET --model FOLDER                                 # a set with a train split

Needs only psutil besides the library; neither FAISS nor the other packages of the `dev` extra. A failed check raises an
error. Without a GPU everything runs on the CPU, and the results say so. Use small sizes then, for example
`--vectors 5000 --queries 500 --texts 200 --batch 32 --steps 6`. Parts (`--parts`), each a section:

- search: seconds of `exact.search` on the GPU and on the CPU, and of float32 products and `topk` in torch on the GPU.
  The rows and scores of the first 500 queries must be bit-identical on the GPU and on the CPU.
- bits: the same comparison on vectors that are hard to rank, for all similarities and both vector types.
- embed: texts per second of `corpus.embed` and of `SentenceTransformer.encode`, and the largest difference between
  their vectors. The texts are one to four passages long and distinct.
- refresh: a training with `RefreshNegatives` that mines at least twice, in the foreground and in the background. All
  losses must be finite, and the negatives must change.
- cached: peak memory and seconds per step of `HardNegativesRankingLoss` and of its cached form on large batches. Both
  losses must be equal on the first batch.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from gpu_search import DEVICE, ON_GPU, bits, search, show_bits, show_search
from inputs import load_set, texts_of
from measuring import in_turns, seconds_of, spread_of
from runner import SEED, Benchmark, Part, Run, option, table
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import PrinterCallback, TrainerCallback

import hnm_datasets as hnm


def device_name() -> str:
    """Return the name of the measured device."""
    return torch.cuda.get_device_name() if ON_GPU else "the CPU, because there is no GPU"


# ---- embedding ---------------------------------------------------------------------------------------------------

#: The largest allowed difference between numbers of float32 unit vectors: batches are padded differently.
TOLERANCE = 1e-4


def load_model(run: Run) -> SentenceTransformer:
    """Load the model in float32, for weights of any type."""
    model = SentenceTransformer(run.model, device=DEVICE).float()
    model.model_card_data.generate_widget_examples = False  # otherwise trainers encode texts for the model card
    return model


def mixed_texts(run: Run) -> list[str]:
    """Return distinct texts of one to four passages each."""
    passages = texts_of(load_set(*run.sets[:1] or [None], "train")[0])
    rng = np.random.default_rng(SEED)
    drawn = (rng.integers(0, len(passages), count) for count in rng.integers(1, 5, run.texts))
    return [f"{number} {' '.join(passages[row] for row in rows)}" for number, rows in enumerate(drawn)]


def embed(run: Run) -> list[dict[str, Any]]:
    model, texts = load_model(run), mixed_texts(run)
    ids = [str(number) for number in range(len(texts))]
    corpus = hnm.Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": texts}))
    vectors: dict[str, Any] = {}

    def by_embed(batch: int) -> float:
        start = time.perf_counter()
        embeddings = corpus.embed(model, batch_size=batch, normalize=True)
        seconds = time.perf_counter() - start
        vectors["embed"] = np.array(embeddings.vectors)
        embeddings.discard()
        return seconds

    def by_encode(batch: int) -> float:
        def encode() -> None:
            vectors["encode"] = model.encode_document(texts, batch_size=batch, normalize_embeddings=True)

        return seconds_of(encode)

    model.encode(texts[:100])
    found = []
    for batch in run.batches:
        times = in_turns({"embed": partial(by_embed, batch), "encode": partial(by_encode, batch)}, run.repeats)
        difference = float(np.abs(vectors["embed"] - vectors["encode"]).max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"corpus.embed and encode differ by {difference:.2g} at batch size {batch}.")
        summaries = {name: spread_of(seconds) for name, seconds in times.items()}
        found.append({"batch": batch, "texts": len(texts), "difference": difference} | summaries)
    return found


def show_embed(found: list[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        seconds = one["embed"]["median_s"], one["encode"]["median_s"]
        rates = (f"{one['texts'] / each:,.0f}" for each in seconds)
        rows.append((one["batch"], *rates, f"{seconds[1] / seconds[0]:.2f}", f"{one['difference']:.1e}"))
    return (
        f"{found[0]['texts']:,} texts of one to four passages, float32, texts per second; 32 is the default of both. "
        "`corpus.embed` also names model and texts by their content and writes the vectors to disk.\n\n"
        + table("Batch size|`corpus.embed`|`encode`|ours / theirs|largest difference", rows)
    )


# ---- training ----------------------------------------------------------------------------------------------------

REFRESHES = 2
#: The largest number of steps while waiting for background refreshes, as a multiple of the wanted number.
PATIENCE = 50
CACHED_STEPS = 4


class Watch(TrainerCallback):
    """Record when steps end, and end the training after some steps and enough refreshes."""

    def __init__(self, steps: int, refresh: hnm.RefreshNegatives | None = None) -> None:
        self.steps, self.refresh = steps, refresh
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record the time, and check whether to stop."""
        self.ends.append(time.perf_counter())
        refreshed = self.refresh is None or len(self.refresh.history) >= REFRESHES
        control.should_training_stop = state.global_step >= self.steps and refreshed


def live_rows(run: Run) -> tuple[hnm.Corpus, Any]:
    corpus, queries = load_set(*run.sets[:1] or [None], "train")
    return corpus, hnm.live_negatives(queries.map(hnm.BM25Negatives(corpus, k=20), batched=True), corpus)


def train(student: SentenceTransformer, live: Any, loss: Any, batch: int, watch: Watch) -> list[float]:
    """Train with the stock trainer, and return the losses of all steps, which must be finite."""
    callbacks = [*([watch.refresh] if watch.refresh else [hnm.FollowEpochs(live)]), watch]
    with tempfile.TemporaryDirectory() as folder:
        options = SentenceTransformerTrainingArguments(
            output_dir=folder, max_steps=PATIENCE * watch.steps, per_device_train_batch_size=batch,
            learning_rate=2e-5, lr_scheduler_type="constant", dataloader_drop_last=True, report_to=[],
            save_strategy="no", logging_steps=1, logging_nan_inf_filter=False, disable_tqdm=True, seed=SEED,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(student, options, train_dataset=live, loss=loss, callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if len(losses) != len(watch.ends) or not all(map(math.isfinite, losses)):
        raise RuntimeError(f"{type(loss).__name__}: not all {len(watch.ends)} losses are finite: {losses}")
    return losses


def refresh(run: Run) -> list[dict[str, Any]]:
    found = []
    for background in (False, True):
        corpus, live = live_rows(run)
        student = load_model(run)
        refresh = hnm.RefreshNegatives(
            live, [partial(hnm.DenseNegatives, corpus, k=20)], every=run.steps // (REFRESHES + 1) + 1,
            background=background,
        )  # fmt: skip
        watch = Watch(run.steps, refresh)
        start = time.perf_counter()
        losses = train(student, live, hnm.HardNegativesRankingLoss(student), min(32, run.batch), watch)
        seconds = time.perf_counter() - start
        history = refresh.history
        way = "background" if background else "foreground"
        if len(history) < REFRESHES:
            raise RuntimeError(f"{way}: {len(history)} refreshes in {len(losses)} steps, {REFRESHES} are wanted.")
        if not history[0]["replaced"] > 0:
            raise RuntimeError(f"{way}: the first refresh replaced no negative.")
        found.append(
            {"way": way, "steps": len(losses), "seconds": seconds, "losses": losses, "history": history}
            | {"passages": len(corpus), "step_s": median(np.diff(watch.ends))}
        )
    return found


def show_refresh(found: list[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        history = one["history"]
        parts = (f"{median(it[f'seconds_{part}'] for it in history):.2f} s" for part in ("encode", "index", "mine"))
        replaced = ", ".join(f"{it['replaced']:.0%}" for it in history)
        late = ", ".join(str(it["step"] - it["model_step"]) for it in history)
        ends = f"{one['losses'][0]:.3f}", f"{one['losses'][-1]:.3f}"
        step = f"{1e3 * one['step_s']:.0f} ms"
        rows.append((one["way"], one["steps"], f"{one['seconds']:.1f} s", step, *parts, late, replaced, *ends))
    return (
        f"{found[0]['passages']:,} passages. Seconds of the refreshes are medians; a training with refreshes in the "
        "background goes on until two of them are done.\n\n"
        + table(
            "Refreshes|Steps|All|a step|encoding|indexing|mining|steps late|new negatives|first loss|last loss", rows
        )
    )


def without_dropout(student: SentenceTransformer) -> SentenceTransformer:
    """Disable dropout, so two trainings compute the same."""
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return student


def measure_loss(run: Run, kind: type[hnm.HardNegativesRankingLoss]) -> dict[str, Any]:
    """Train some steps; results are None if the GPU does not have enough memory."""
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    student, watch = without_dropout(load_model(run)), Watch(CACHED_STEPS)
    about: dict[str, Any] = {"loss": kind.__name__, "batch": run.batch, "peak": None, "losses": None, "step_s": None}
    try:
        about["losses"] = train(student, live_rows(run)[1], kind(student), run.batch, watch)
    except torch.cuda.OutOfMemoryError:
        return about
    if ON_GPU:
        about["peak"] = torch.cuda.max_memory_allocated()
    return about | {"step_s": median(np.diff(watch.ends))}


def cached(run: Run) -> list[dict[str, Any]]:
    found = [measure_loss(run, kind) for kind in (hnm.HardNegativesRankingLoss, hnm.CachedHardNegativesRankingLoss)]
    plain, other = (one["losses"] for one in found)
    if other is None:
        raise RuntimeError(f"CachedHardNegativesRankingLoss has not enough memory at batch size {run.batch}.")
    if plain is not None and not math.isclose(plain[0], other[0], rel_tol=1e-3):
        raise RuntimeError(f"The losses of the first batch differ: {plain[0]} and cached {other[0]}.")
    return found


def show_cached(found: list[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        if one["losses"] is None:
            rows.append((f"`{one['loss']}`", one["batch"], "not enough memory", None, None))
            continue
        peak = "not measured" if one["peak"] is None else f"{one['peak'] / 2**30:.2f} GiB"
        rows.append((f"`{one['loss']}`", one["batch"], peak, f"{one['step_s']:.2f} s", f"{one['losses'][0]:.4f}"))
    return table("Loss|Batch|Peak memory of the GPU|a step|first loss", rows)


# ------------------------------------------------------------------------------------------------------------------


def part(
    title: str, measure: Callable[[Run], list[dict[str, Any]]], show: Callable[[list[dict[str, Any]]], str]
) -> Part:
    """Return a part that shows the device."""
    return Part(
        title,
        lambda run: {"device": device_name(), "rows": measure(run)},
        lambda found: f"On {found['device']}.\n\n{show(found['rows'])}",
    )


if __name__ == "__main__":
    Benchmark(
        {
            "search": part("Exact search", search, show_search),
            "bits": part("The same bits", bits, show_bits),
            "embed": part("Embedding", embed, show_embed),
            "refresh": part("A training with refreshes", refresh, show_refresh),
            "cached": part("Cached gradients", cached, show_cached),
        },
        {
            "model": option("sentence-transformers/all-MiniLM-L6-v2", "a path or Hub id of a transformer"),
            "dimensions": option([256, 768], "of the vectors to search"),
            "vectors": option(100_000, "to search"),
            "queries": option(10_000, "to search for"),
            "bits": option([3001, 140_001], "numbers of vectors to compare to the bit"),
            "texts": option(20_000, "to embed"),
            "batches": option([32, 128, 512], "batch sizes to embed with"),
            "steps": option(60, "of the training with refreshes"),
            "batch": option(1024, "pairs per step with cached gradients"),
        },
        sets="?",
    ).run()
