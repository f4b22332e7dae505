# The public names, in the order of a typical workflow. `__init__.py` imports each of them on first use.

__version__: str

# Load
from .corpus.passages import Corpus as Corpus
from .loaders.beir import load_beir as load_beir
from .loaders.pairs import from_pairs as from_pairs
from .loaders.mined import from_mined as from_mined
from .loaders.qrels import attach_positives as attach_positives
from .loaders.pooling import pool_positives as pool_positives
from .loaders.hiding import hide_positives as hide_positives
from .loaders.sample import load_sample as load_sample

# Mine
from .mining.chain import mine as mine
from .mining.report import MiningReport as MiningReport
from .transforms.miners.bm25 import BM25Negatives as BM25Negatives
from .transforms.miners.dense import DenseNegatives as DenseNegatives
from .transforms.miners.sparse import SparseNegatives as SparseNegatives
from .transforms.miners.late_interaction import LateInteractionNegatives as LateInteractionNegatives
from .transforms.miners.random import RandomNegatives as RandomNegatives
from .transforms.miners.judged import JudgedNegatives as JudgedNegatives
from .transforms.miners.search_engine import SearchNegatives as SearchNegatives
from .transforms.miners.run import RunNegatives as RunNegatives
from .transforms.miners.fusion import FuseNegatives as FuseNegatives
from .drop_in.mining import mine_hard_negatives as mine_hard_negatives
from .indexes.bm25 import BM25Index as BM25Index
from .indexes.dense import DenseIndex as DenseIndex
from .indexes.sparse import SparseIndex as SparseIndex
from .indexes.tokens import TokenIndex as TokenIndex
from .indexes.sharded import ShardedIndex as ShardedIndex
from .models.embeddings import Embeddings as Embeddings
from .models.sparse_embeddings import SparseEmbeddings as SparseEmbeddings
from .models.token_embeddings import TokenEmbeddings as TokenEmbeddings

# Score
from .transforms.scorers.bi_encoder import BiEncoderScores as BiEncoderScores
from .transforms.scorers.late_interaction import LateInteractionScores as LateInteractionScores
from .transforms.scorers.cross_encoder import CrossEncoderScores as CrossEncoderScores

# Filter
from .transforms.filters.limits import RankWindow as RankWindow
from .transforms.filters.limits import ScoreBand as ScoreBand
from .transforms.filters.margins import AbsoluteMargin as AbsoluteMargin
from .transforms.filters.margins import RelativeMargin as RelativeMargin
from .transforms.filters.threshold import TeacherThreshold as TeacherThreshold
from .transforms.filters.known_positives import DropKnownPositives as DropKnownPositives
from .transforms.filters.near_duplicates import DropNearDuplicates as DropNearDuplicates
from .transforms.filters.positive_similarity import PositiveSimilarity as PositiveSimilarity
from .audit.calibration import calibrate_margin as calibrate_margin
from .audit.calibration import calibrate_threshold as calibrate_threshold

# Sample
from .transforms.samplers.sample import TopNegatives as TopNegatives
from .transforms.samplers.sample import SampleNegatives as SampleNegatives
from .transforms.samplers.sort import SortNegatives as SortNegatives

# Shape
from .transforms.shapes.tuples import ToTriplets as ToTriplets
from .transforms.shapes.tuples import ToNTuples as ToNTuples
from .transforms.shapes.labeled import ToLabeledPairs as ToLabeledPairs
from .transforms.shapes.labeled import ToLabeledLists as ToLabeledLists

# Train
from .training.live import live_negatives as live_negatives
from .training.live_rows import LiveNegatives as LiveNegatives
from .training.live_rows import rows_of_epoch as rows_of_epoch
from .training.loss import HardNegativesRankingLoss as HardNegativesRankingLoss
from .training.loss import CachedHardNegativesRankingLoss as CachedHardNegativesRankingLoss
from .training.refresh import RefreshNegatives as RefreshNegatives
from .training.follow_epochs import FollowEpochs as FollowEpochs
from .training.evaluation import retrieval_evaluator as retrieval_evaluator

# Look
from .audit.run import audit_negatives as audit_negatives
from .audit.report import Audit as Audit
from .audit.comparison import compare_negatives as compare_negatives
from .audit.comparison import Comparison as Comparison
from .audit.explanation import explain as explain
from .audit.explanation import Explanation as Explanation
from .pictures.query import plot_query as plot_query
from .pictures.scores import plot_scores as plot_scores
from .pictures.hardness import plot_hardness as plot_hardness
from .pictures.training import plot_training as plot_training

# Choose
from .piloting.run import pilot as pilot
from .piloting.report import Pilot as Pilot
from .pictures.pilot import plot_pilot as plot_pilot

# Share
from .formats.conversion import convert as convert
from .hub.saving import save_mined as save_mined
from .hub.push import push_mined as push_mined
from .hub.saving import write_card as write_card

# Scale
from .scale.ray_embedding import embed_with_ray as embed_with_ray
from .scale.streaming import write_stream as write_stream

# Cache
from .cache.listing import cached as cached
from .cache.listing import Cached as Cached

# Check steps of your own
from . import testing as testing
