"""Static BM25 negatives: retrieve, leave the very top out, sample, write triplets.

    python recipes/bm25.py                                      # the embedded sample
    python recipes/bm25.py BeIR/scifact --split train           # a Hub id, or a folder in BEIR's form

Karpukhin et al. 2020, Dense Passage Retrieval (https://arxiv.org/abs/2004.04906), used BM25 negatives like these.
"""

import argparse
import textwrap
from pathlib import Path

from hnm_datasets import BM25Negatives, RankWindow, SampleNegatives, ToTriplets, load_beir, load_sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", nargs="?", help="a Hub id or a folder in BEIR's form; without it: the embedded sample"
    )
    parser.add_argument("--split", default="train", help="the judgements to use (default: train)")
    parser.add_argument("--k", type=int, default=50, help="candidates to retrieve per query (default: 50)")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first ranks, often unjudged positives")
    parser.add_argument("--negatives", type=int, default=5, help="negatives to keep per query (default: 5)")
    parser.add_argument("--exclude-group", action="store_true", help="nothing from a positive's own document")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("mined/bm25"), help="default: mined/bm25")
    args = parser.parse_args()
    if args.negatives > args.k - args.skip:
        parser.error(
            f"--negatives {args.negatives} is larger than the window of ranks {args.skip + 1} to {args.k}: raise --k, "
            f"or lower --skip or --negatives."
        )

    corpus, queries = load_beir(args.source, split=args.split) if args.source else load_sample()
    mined = (
        queries.map(BM25Negatives(corpus, k=args.k, exclude_group=args.exclude_group), batched=True)
        .map(RankWindow(low=args.skip + 1), batched=True)
        .map(SampleNegatives(args.negatives, seed=args.seed), batched=True)
    )
    triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)

    args.output.mkdir(parents=True, exist_ok=True)
    mined.to_parquet(args.output / "mined.parquet")
    triplets.to_parquet(args.output / "triplets.parquet")

    counts = [len(ids) for ids in mined["negative_ids"]]
    print(f"\n{len(corpus):,} passages, {len(mined):,} queries, {len(triplets):,} triplets")
    print(f"negatives per query: {min(counts)} to {max(counts)}, {sum(counts) / len(counts):.2f} on average")
    for row in range(0, len(mined), max(1, len(mined) // 3))[:3]:
        show(mined[row], corpus)
    print(f"\nwritten: {args.output}/mined.parquet (ids, scores, ranks) and {args.output}/triplets.parquet (texts)")


def show(row: dict, corpus) -> None:
    print(f"\nquery     {row['query']}")
    for positive, score in zip(row["positive_ids"][:1], row["positive_scores"][:1], strict=True):
        print(f"positive  {score:5.1f}            {brief(corpus, positive)}")
    for negative, score, rank in zip(row["negative_ids"], row["negative_scores"], row["negative_ranks"], strict=True):
        print(f"negative  {score:5.1f}  rank {rank:3d}  {brief(corpus, negative)}")


def brief(corpus, passage_id: str) -> str:
    passage = corpus[passage_id]
    return textwrap.shorten(f"[{passage['title']}] {passage['text']}", 95, placeholder=" …")


if __name__ == "__main__":
    main()
