"""Train with static negatives: mine once with BM25, draw anew in each epoch, mask the known positives.

    python recipes/train.py                                            # the embedded sample, on a CPU
    python recipes/train.py BeIR/scifact --model sentence-transformers/all-MiniLM-L6-v2 --steps 500

Karpukhin et al. 2020, DPR (https://arxiv.org/abs/2004.04906): BM25's best passages that are not relevant, beside the
other passages of the batch. `HardNegativesRankingLoss` leaves out what is known to be relevant, and with `--margin`
also what is likely so.
"""

from _common import parser_of
from _training import add_training_options, load_split, load_student, train

from hnm_datasets import BM25Negatives
from hnm_datasets.training.follow_epochs import FollowEpochs
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss


def main() -> None:
    parser = parser_of(__doc__, "trained")
    add_training_options(parser)
    parser.add_argument("--k", type=int, default=20, help="candidates to draw from (default: 20)")
    parser.add_argument("--margin", type=float, help="mask what scores above the positive by this (default: nothing)")
    args = parser.parse_args()

    corpus, queries, test = load_split(args)
    student = load_student(args.model)
    mined = queries.map(BM25Negatives(corpus, k=args.k), batched=True)
    live = live_negatives(mined, corpus, n=args.negatives, seed=args.seed)
    loss = HardNegativesRankingLoss(student, margin=args.margin)
    train(args, student, live, loss, corpus, test, [FollowEpochs(live)])


if __name__ == "__main__":
    main()
