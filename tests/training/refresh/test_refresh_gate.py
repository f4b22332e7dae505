"""When refreshes begin, when they are worth it, and what they remember."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from refresh_helpers import K, chain, generations, lists_of, make_model, train
from sentence_transformers import SentenceTransformer

from hnm_datasets import BM25Negatives, DenseNegatives, RefreshNegatives, live_negatives
from hnm_datasets.models.fingerprint import model_fingerprint
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.gate import Gate
from hnm_datasets.training.generations import Generation
from hnm_datasets.training.probe import Probe

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def steps_of(refresh):
    return [one["step"] for one in refresh.history]


def sequence(*found):
    """Looks that find one thing after the other."""
    answers = iter(found)
    return lambda: next(answers)


def test_without_conditions_a_gate_needs_no_look():
    gate = Gate(None, None)
    for _ in range(3):
        assert gate.is_due(sequence())
        gate.refreshed(sequence())


def test_a_gate_opens_once():
    gate = Gate(0.5, None)
    look = sequence({"mrr": 0.3, "weight": 0.0}, {"mrr": 0.5, "weight": 0.0})
    assert [gate.is_due(look) for _ in range(4)] == [False, True, True, True]
    other = Gate(0.5, None)
    other.restart(gate.state)
    assert other.is_due(sequence())
    gate.restart()
    assert not gate.is_due(sequence({"mrr": 0.1, "weight": 0.0}))


def test_a_gate_waits_until_negatives_are_stale():
    gate = Gate(None, 0.5)
    assert gate.is_due(sequence())
    gate.refreshed(sequence({"mrr": 0.0, "weight": 0.2}))
    look = sequence(*({"mrr": 0.0, "weight": weight} for weight in (0.2, 0.3, 0.11, 0.1)))
    assert [gate.is_due(look) for _ in range(4)] == [False, False, False, True]
    other = Gate(None, 0.5)
    other.restart(gate.state)
    assert not other.is_due(sequence({"mrr": 0.0, "weight": 0.15}))


def test_a_gate_closes_where_new_negatives_weigh_nothing():
    gate = Gate(None, 0.5)
    gate.refreshed(sequence({"mrr": 1.0, "weight": 0.009}))
    assert not any(gate.is_due(sequence()) for _ in range(3))


@pytest.mark.parametrize(
    ("start", "at"), [(0, [5, 10, 15, 20]), (7, [7, 12, 17, 22]), (10, [10, 15, 20]), (1.0, [10, 15, 20]), (99, [])]
)
def test_refreshes_begin_at_a_step_or_an_epoch(corpus, mined, tmp_path, start, at):
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 5, options={"start": start})
    assert steps_of(done.refresh) == at
    assert done.refresh.probes == []


def probed(live, model, rows):
    """What a probe must find: by the vectors of all texts of the current candidates."""
    corpus, source = live.source.corpus, live.source
    now = Generation.open(source.folder_of(source.progress.generation))
    reciprocal, above, answered, total, weights = 0.0, 0, 0, 0, []
    for row in rows:
        own, others = (
            corpus.texts(lists.values[lists.offsets[row] : lists.offsets[row + 1]]).to_pylist()
            for lists in (now.positives, now.negatives)
        )
        query, *passages = model.encode([source.rows[int(row)]["query"], *own, *others], normalize_embeddings=True)
        scores = np.array(passages) @ query
        ahead = int((scores[len(own) :] > scores[: len(own)].max() + 1e-6).sum())
        answered, above, total = answered + 1, above + ahead, total + len(others)
        reciprocal += 1 / (1 + ahead) if ahead < len(others) or not others else 0
        weights += [1 / (1 + np.exp(20 * (scores[: len(own)].max() - score))) for score in scores[len(own) :]]
    return reciprocal / answered, above / max(total, 1), np.mean(weights)


@pytest.mark.parametrize("size", [6, 100])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_probe_tells_how_the_model_ranks_the_candidates_of_its_sample(corpus, queries, size, seed):
    live = live_negatives(queries.map(BM25Negatives(corpus, k=6), batched=True), corpus, n=3)
    model = make_model()
    with torch.no_grad():
        model[0].embedding.weight.add_(torch.randn(model[0].embedding.weight.shape, generator=torch.manual_seed(seed)))
    model.eval()
    rows = np.unique(np.linspace(0, len(queries) - 1, size).astype(int))
    found = Probe(live.source, chain(corpus), size).look(model, model_fingerprint(model))
    assert (found["mrr"], found["above"], found["weight"]) == pytest.approx(probed(live, model, rows), rel=1e-4)
    assert size < 10 or 0 < found["above"] < 1


def test_a_probe_encodes_with_the_prompts_of_the_miner(corpus, mined):
    live = live_negatives(mined, corpus, n=3)
    miner = partial(DenseNegatives, corpus, k=K, query_prompt="w1 ", prompt="w2 ", batch_size=4)
    options = Probe(live.source, [BM25Negatives(corpus, k=K), miner], 5).options
    assert options == {"query_prompt": "w1 ", "prompt": "w2 ", "batch_size": 4}
    assert Probe(live.source, [lambda model: DenseNegatives(corpus, model)], 5).options == {}


@pytest.fixture
def scripted(monkeypatch):
    """Let probes say, one after the other, what a test wants."""

    def script(name, values):
        answers = iter(values)
        looked = {"mrr": 0.0, "above": 0.0, "weight": 0.0, "seconds": 0.0}
        monkeypatch.setattr(Probe, "look", lambda *_: looked | {name: next(answers)})

    return script


def test_refreshes_begin_when_the_model_ranks_well_enough(corpus, mined, tmp_path, scripted):
    scripted("mrr", [0.2, 0.49, 0.5])
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4, options={"start_mrr": 0.5})
    assert steps_of(done.refresh) == [12, 16, 20]
    assert [(one["step"], one["mrr"]) for one in done.refresh.probes] == [(4, 0.2), (8, 0.49), (12, 0.5)]
    logged = [(one["step"], one["probe_mrr"]) for one in done.log if "probe_mrr" in one]
    assert logged == [(4, 0.2), (8, 0.49), (12, 0.5)]


def test_only_stale_negatives_are_mined_again(corpus, mined, tmp_path, scripted):
    # The first refresh, two looks, the second one, and its own.
    scripted("weight", [0.4, 0.3, 0.21, 0.2, 0.1, 0.06, 0.06, 0.06])
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 3, options={"stale": 0.5})
    assert steps_of(done.refresh) == [3, 12]
    assert [one["step"] for one in done.refresh.probes] == [3, 6, 9, 12, 12, 15, 18, 21]


def test_a_training_goes_on_with_what_its_probes_said(corpus, mined, tmp_path):
    """From a checkpoint before, at and after a refresh that a probe asked for."""

    def run(folder, **more):
        live = live_negatives(mined, corpus, n=3)
        options = {"start": 2, "start_mrr": 0.05, "stale": 0.9, "probe": 12, "memory": 0.4, "keep": 9}
        return train(live, folder, chain(corpus, k=30), 3, options=options, **more)

    places = (4, 5, 9, 13)
    plain = run(tmp_path / "plain", save=places)
    assert plain.refresh.probes
    assert plain.refresh.history
    for step in places:
        folder = tmp_path / f"again-{step}"
        shutil.copytree(tmp_path / "plain", folder)
        for later in (one for one in places if one > step):
            shutil.rmtree(folder / f"checkpoint-{later}")
        done = run(folder, resume=folder / f"checkpoint-{step}")
        done.same_end(plain, plain.losses[-len(done.losses) :])
        for name in ("probes", "history"):
            again, once = (
                [{key: value for key, value in one.items() if "seconds" not in key} for one in getattr(run, name)]
                for run in (done.refresh, plain.refresh)
            )
            assert again == once


def test_models_of_token_vectors_are_refused(corpus, mined, make_token_model):
    model = make_token_model()
    with pytest.raises(TypeError, match="start_mrr and stale"):
        Probe(live_negatives(mined, corpus, n=3).source, chain(corpus), 5).look(model, "name")


def test_probes_change_nothing_and_leave_nothing(corpus, mined, tmp_path):
    """With dropout and a shuffled order, all that a probe might disturb would show in the losses."""
    static = [BM25Negatives(corpus, k=6)]

    def kept():
        return {path for kind in ("vectors", "embeddings") for path in (cache_root() / kind).glob("*")}

    plain = train(live_negatives(mined, corpus, n=3), tmp_path / "plain", static, 4)
    before = kept()
    done = train(live_negatives(mined, corpus, n=3), tmp_path / "probed", static, 4, options={"start_mrr": 1e-9})
    assert [one["step"] for one in done.refresh.probes] == [4]
    done.same_end(plain, plain.losses)
    often = train(live_negatives(mined, corpus, n=3), tmp_path / "often", static, 4, options={"stale": 1.0})
    assert len(often.refresh.probes) > 4
    assert kept() == before


def test_earlier_negatives_stay_among_the_new(corpus, mined, tmp_path):
    share = 0.5
    live = live_negatives(mined, corpus, n=3)
    mine = [chain(corpus)[0]]
    train(live, tmp_path, mine, 6, save=(6, 12, 18), options={"memory": share, "keep": 9})
    before = lists_of(live.source.folder_of(0))[1]
    for number in (1, 2, 3):
        model = SentenceTransformer(str(tmp_path / f"checkpoint-{6 * number}"), device="cpu")
        found = mined.select_columns(["query_id", "query", "positive_ids"]).map(mine[0](model), batched=True)
        now = lists_of(generations(tmp_path)[number])[1]
        for fresh, old, new in zip(found["negative_ids"], before, now, strict=True):
            fresh = corpus.rows(fresh).tolist()
            assert new[: len(fresh)] == fresh
            left = [row for row in old if row not in fresh]
            assert len(new) == len(fresh) + min(len(left), len(fresh))
            assert new[len(fresh) :] == [row for row in left if row in new]
        before = now


def test_memory_does_not_bring_back_known_positives(corpus, mined, tmp_path):
    live = live_negatives(mined, corpus, n=3)
    train(live, tmp_path, chain(corpus), 4, options={"memory": 0.75, "keep": 9})
    for path in generations(tmp_path).values():
        positives, negatives = lists_of(path)
        for own, others in zip(positives, negatives, strict=True):
            codes = corpus.copy_codes
            assert not set(codes[own].tolist()) & set(codes[others].tolist())
            assert len(set(codes[others].tolist())) == len(others)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"start": -1}, ValueError, "start"),
        ({"start": -0.5}, ValueError, "start"),
        ({"start": "2"}, (TypeError, ValueError), "start"),
        ({"start": float("nan")}, ValueError, "start"),
        ({"start_mrr": 0}, ValueError, "start_mrr"),
        ({"start_mrr": 1.5}, ValueError, "start_mrr"),
        ({"stale": 0.0}, ValueError, "stale"),
        ({"stale": 2}, ValueError, "stale"),
        ({"stale": "half"}, (TypeError, ValueError), "stale"),
        ({"probe": 0}, ValueError, "probe"),
        ({"memory": 1.0}, ValueError, "memory"),
        ({"memory": -0.1}, ValueError, "memory"),
        ({"memory": True}, (TypeError, ValueError), "memory"),
    ],
)
def test_bad_options(corpus, mined, options, error, match):
    with pytest.raises(error, match=match):
        RefreshNegatives(live_negatives(mined, corpus), chain(corpus), 5, **options)


@pytest.mark.parametrize("options", [{"start": 3}, {"start": 0.5}, {"start_mrr": 0.5}])
def test_a_first_refresh_cannot_be_put_off_where_there_are_no_negatives(corpus, queries, options):
    with pytest.raises(ValueError, match="Mine them before live_negatives"):
        RefreshNegatives(live_negatives(queries, corpus), chain(corpus), 5, **options)
