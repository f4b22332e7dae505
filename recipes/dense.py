"""Dense negatives: embed the corpus once, search with the model, leave near duplicates out, write n-tuples.

    python recipes/dense.py                                            # the embedded sample, with MiniLM
    python recipes/dense.py BeIR/scifact --model intfloat/e5-small-v2 --query-prompt "query: " --prompt "passage: "
    python recipes/dense.py passages/ --index IVF4096,Flat --nprobe 64 # a large corpus, searched approximately

With the model that is being trained these are the negatives of ANCE (Xiong et al. 2020,
https://arxiv.org/abs/2007.00808), as they are at one moment. The margin that keeps likely false negatives out is that
of recipes/nv_retriever.py.
"""

from _common import add_model_options, load_bi_encoder, load_source, parser_of, write_and_show

from hnm_datasets import DenseIndex, DenseNegatives, DropNearDuplicates, RelativeMargin, ToNTuples, TopNegatives


def main() -> None:
    parser = parser_of(__doc__, "dense")
    add_model_options(parser)
    parser.add_argument("--index", default="Flat", help="a FAISS factory string (default: Flat, exact search)")
    parser.add_argument("--nprobe", type=int, help="inverted lists to search, for IVF indexes")
    parser.add_argument("--ef-search", type=int, help="width of the search, for HNSW indexes")
    parser.add_argument("--k", type=int, default=50, help="candidates to retrieve per query (default: 50)")
    parser.add_argument("--margin", type=float, default=0.05, help="share below the positive's score (default: 0.05)")
    parser.add_argument("--near", type=float, default=0.8, help="drop texts this near to one that stays (default: 0.8)")
    args = parser.parse_args()

    corpus, queries = load_source(args)
    model = load_bi_encoder(args.model)
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
    write_and_show(corpus, mined, tuples, args.output, "n_tuples")
    if args.index != "Flat":
        recall = index.recall(miner.model.vectors(queries["query"][:1000]), args.k)
        print(f"the index finds {recall:.1%} of the {args.k} nearest passages")


if __name__ == "__main__":
    main()
