"""Train with dynamic negatives: mined again with the model as it is, every so many steps.

    python recipes/ance.py                                             # the embedded sample, on a CPU
    python recipes/ance.py BeIR/scifact --model sentence-transformers/all-MiniLM-L6-v2 --every 200 --background

Xiong et al. 2021, ANCE (https://arxiv.org/abs/2007.00808): start from BM25's negatives, then encode the corpus with the
model in training, search it, and train on what it ranks highly and is not relevant. Near duplicates of the positives
are left out, and candidates above the positive less `--margin`, which are often relevant and not annotated.
"""

from functools import partial

from _common import parser_of
from _training import add_training_options, load_split, load_student, train

from hnm_datasets import AbsoluteMargin, BM25Negatives, DenseNegatives, DropNearDuplicates
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import RefreshNegatives


def main() -> None:
    parser = parser_of(__doc__, "ance")
    add_training_options(parser)
    parser.add_argument("--k", type=int, default=20, help="candidates to draw from (default: 20)")
    parser.add_argument("--every", type=int, default=100, help="steps between refreshes (default: 100)")
    parser.add_argument("--margin", type=float, default=-0.1, help="below the positive, or above if negative (-0.1)")
    parser.add_argument("--background", action="store_true", help="mine beside the training, with a copy of the model")
    args = parser.parse_args()

    corpus, queries, test = load_split(args)
    student = load_student(args.model)
    mined = queries.map(BM25Negatives(corpus, k=args.k), batched=True)
    live = live_negatives(mined, corpus, n=args.negatives, seed=args.seed)
    steps = [partial(DenseNegatives, corpus, k=args.k), DropNearDuplicates(corpus), AbsoluteMargin(args.margin)]
    refresh = RefreshNegatives(live, steps, every=args.every, background=args.background)
    train(args, student, live, HardNegativesRankingLoss(student), corpus, test, [refresh])
    for one in refresh.history:
        print(
            f"generation {one['generation']} at step {one['step']}: MRR {one['mrr']:.3f}, {one['replaced']:.0%} new, "
            f"{one['seconds_encode'] + one['seconds_index'] + one['seconds_mine']:.1f} s"
        )


if __name__ == "__main__":
    main()
