"""Static BM25 negatives: retrieve, leave the very top out, sample, write triplets.

    python recipes/bm25.py                                      # the embedded sample
    python recipes/bm25.py BeIR/scifact --split train           # a Hub id, or a folder in BEIR's form

Karpukhin et al. 2020, Dense Passage Retrieval (https://arxiv.org/abs/2004.04906), used BM25 negatives like these.
"""

from _common import load_source, parser_of, write_and_show

from hnm_datasets import BM25Negatives, RankWindow, SampleNegatives, ToTriplets


def main() -> None:
    parser = parser_of(__doc__, "bm25")
    parser.add_argument("--k", type=int, default=50, help="candidates to retrieve per query (default: 50)")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first ranks, often unjudged positives")
    parser.add_argument("--exclude-group", action="store_true", help="nothing from a positive's own document")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.negatives > args.k - args.skip:
        parser.error(
            f"--negatives {args.negatives} is larger than the window of ranks {args.skip + 1} to {args.k}: raise --k, "
            f"or lower --skip or --negatives."
        )

    corpus, queries = load_source(args)
    mined = (
        queries.map(BM25Negatives(corpus, k=args.k, exclude_group=args.exclude_group), batched=True)
        .map(RankWindow(min=args.skip + 1), batched=True)
        .map(SampleNegatives(args.negatives, seed=args.seed), batched=True)
    )
    triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)
    write_and_show(corpus, mined, triplets, args.output, "triplets")


if __name__ == "__main__":
    main()
