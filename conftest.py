import gc
import importlib.util
import logging
import os
from pathlib import Path

import datasets
import hypothesis
import pytest

# The first example of a test compiles the loops, which takes longer than any deadline.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("project")


def _uses_ray(file):
    return "ray" in Path(file).stem.split("_")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Run the tests of Ray and the notebooks first: they take longest, and no worker should end alone with them.

    Of the examples that a test draws, half are tried. They are the same in each run, and `HNM_EXHAUSTIVE=1` tries all.
    """
    items.sort(key=lambda item: (not _uses_ray(item.nodeid.split("::")[0]), "test_notebook" not in item.nodeid))
    if os.environ.get("HNM_EXHAUSTIVE"):
        return
    for test in {getattr(item, "obj", None) for item in items}:
        if settings := getattr(test, "_hypothesis_internal_use_settings", None):
            half = hypothesis.settings(settings, max_examples=-(-settings.max_examples // 2))
            test._hypothesis_internal_use_settings = half


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file in one worker, which makes their fixtures once.

    Those of Ray are in one worker too: two clusters at once would wait for each other. `--dist loadgroup` does neither
    under pytest 9.2: xdist 3.8 writes the groups into an attribute of the tests that pytest reads no more.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "ray" if _uses_ray(file) else file

    return Scheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep the tests' corpora, indexes and mapped datasets out of the user's cache, and the output free of bars."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache")
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    patch.setenv("HF_DATASETS_CACHE", str(folder))
    datasets.disable_progress_bars()
    yield
    patch.undo()


def _start_ray():
    import ray

    # What else runs on the machine is no reason to kill a worker.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=200_000_000,
        )


@pytest.fixture(scope="module")
def start_ray(request):
    """Start a cluster of Ray, unless an earlier file left one; the last file that asks for it stops it."""
    ray = pytest.importorskip("ray", reason="needs hnm-datasets[ray]")
    if not ray.is_initialized():
        _start_ray()
    yield _start_ray
    *_, last = (item for item in request.session.items if "start_ray" in getattr(item, "fixturenames", ()))
    if last.path == request.path:
        ray.shutdown()


@pytest.fixture(scope="session")
def make_static_model():
    """Make a new SentenceTransformer of static embeddings (wordllama's), which encodes thousands of texts a second."""
    # Read, never imported: only its two files are wanted.
    root = Path(importlib.util.find_spec("wordllama").origin).parent

    def make(dimension=64):
        from safetensors.torch import load_file
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(root / "tokenizers" / "l2_supercat_tokenizer_config.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        (weights,) = load_file(root / "weights" / "l2_supercat_256.safetensors").values()
        embedding = StaticEmbedding(tokenizer, embedding_weights=weights.float()[:, :dimension].contiguous())
        return SentenceTransformer(modules=[embedding], device="cpu")

    return make


@pytest.fixture(scope="session")
def static_model(make_static_model):
    """A model of static embeddings that no test changes."""
    return make_static_model()


@pytest.fixture(scope="session")
def make_sparse_model():
    """Make a new SparseEncoder that gives each known word a weight of its own, by default from 0.5 to 2."""

    def make(words, weights=None, **options):
        import numpy as np
        import torch
        from sentence_transformers import SparseEncoder
        from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["[UNK]", *words])}, "[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[UNK]")
        if weights is None:
            weights = np.random.default_rng(0).uniform(0.5, 2, len(words))
        own = torch.tensor([0.0, *weights], dtype=torch.float32)
        return SparseEncoder(modules=[SparseStaticEmbedding(fast, own)], device="cpu", **options)

    return make


@pytest.fixture(scope="session")
def make_token_model(tmp_path_factory):
    """Make a new MultiVectorEncoder: a tiny BERT of random weights, whose vocabulary is letters and digits."""
    folder = tmp_path_factory.mktemp("token-model")

    def make(dimension=8, *more, **options):
        import string

        import torch
        from sentence_transformers import MultiVectorEncoder
        from sentence_transformers.base.modules import Dense, Normalize, Transformer
        from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
        from transformers import BertConfig, BertModel, BertTokenizerFast

        torch.manual_seed(0)
        letters = string.ascii_lowercase + string.digits
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), "."]
        if not (folder / "vocab.txt").exists():
            (folder / "vocab.txt").write_text("\n".join(words))
            sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
            BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
            BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        # Again, because writing the files has drawn numbers the first time.
        torch.manual_seed(0)
        tokens = {"module_input_name": "token_embeddings"}
        modules = [
            Transformer(str(folder), max_seq_length=40, **options.pop("transformer", {})),
            Dense(16, dimension, bias=False, activation_function=torch.nn.Identity(), **tokens),
            MultiVectorMask(skiplist_words=["."]),
            Normalize(**tokens),
        ]
        return MultiVectorEncoder(modules=[*modules, *more], device="cpu", **options)

    return make


@pytest.fixture(scope="session")
def make_cross_encoder():
    """Write a cross-encoder of random weights, which costs nothing to run, to a new folder."""

    def make(folder):
        from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

        folder.mkdir()
        words = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            *"abcdefghijklmnopqrstuvwxyz",
            *(f"##{c}" for c in "abcdefghij"),
        ]
        (folder / "vocab.txt").write_text("\n".join(words))
        BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=len(words), num_labels=1, max_position_embeddings=32, **sizes)
        BertForSequenceClassification(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def fast_trainers():
    """One thread, and garbage collections, of which every trainer makes one, that leave out what is imported."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)
