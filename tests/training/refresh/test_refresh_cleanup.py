"""What a refresh keeps, and what it does in the background."""

import gc
import json
import threading
from functools import partial
from pathlib import Path

import pytest
from refresh_helpers import (
    DISCARDED,
    MARGIN,
    At,
    K,
    chain,
    from_scratch,
    generations,
    lists_of,
    make_model,
    rows_of,
    running,
    train,
    vectors,
)
from sentence_transformers import SentenceTransformer

from hnm_datasets import (
    BM25Negatives,
    CrossEncoderScores,
    DenseNegatives,
    RelativeMargin,
    TeacherThreshold,
)
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.live import live_negatives

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.mark.parametrize("keep", [1, 3])
def test_old_generations_are_deleted_unless_a_checkpoint_needs_them(corpus, mined, tmp_path, keep):
    options = {"options": {"keep": keep}}
    train(live_negatives(mined, corpus, n=3), tmp_path / "none", chain(corpus), 3, **options)
    assert sorted(generations(tmp_path / "none")) == list(range(8 - keep, 8))
    train(live_negatives(mined, corpus, n=3), tmp_path / "some", chain(corpus), 3, save=[7, 13], **options)
    needed = {2, 4}
    there = set(generations(tmp_path / "some"))
    assert needed | set(range(8 - keep, 8)) <= there <= needed | {1, 3} | set(range(8 - keep, 8))


def test_a_new_training_in_the_same_folder_starts_over(corpus, mined, tmp_path):
    first = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 3)
    again = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 3)
    again.same_end(first, first.losses)
    assert sorted(generations(tmp_path)) == [6, 7]


@pytest.mark.parametrize("case", DISCARDED)
def test_vectors_of_the_models_in_between_are_deleted_and_others_stay(corpus, mined, tmp_path, case):
    fixed = make_model()
    DenseNegatives(corpus, fixed, k=3)(mined[:3])
    before = vectors()
    assert len(before) >= 2
    train(live_negatives(mined, corpus, n=3), tmp_path, DISCARDED[case](corpus), 4)
    assert vectors() == before


def test_a_model_whose_vectors_were_there_keeps_them(corpus, queries, tmp_path):
    model = make_model()
    DenseNegatives(corpus, model, k=3)(queries[:])
    before = vectors()
    train(live_negatives(queries, corpus, n=3), tmp_path, chain(corpus), 4, model=model)
    assert vectors() == before


def test_deleted_vectors_do_not_stay_mapped(corpus, mined, tmp_path):
    train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4)
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    root = str(cache_root())
    assert [line for line in maps if "(deleted)" in line and root in line and "/embeddings/" in line] == []


def test_a_teachers_scores_are_kept(corpus, mined, tmp_path):
    asked = []

    def teacher(pairs):
        asked.extend(pairs)
        return [len(passage) % 7 / 7 for _, passage in pairs]

    steps = [
        partial(DenseNegatives, corpus, k=K),
        CrossEncoderScores(corpus, teacher, fingerprint="length-kept"),
        TeacherThreshold(0.8),
    ]
    train(live_negatives(mined, corpus, n=3), tmp_path, steps, 4)
    assert len(asked) == len(set(asked)) > 0


def test_a_refresh_in_the_background_is_of_the_model_as_it_was(corpus, mined, tmp_path):
    free = threading.Event()
    threads = []

    def wait(model):
        threads.append(threading.current_thread().name)
        assert free.wait(20)
        return DenseNegatives(corpus, model, k=K)

    def finish():
        free.set()
        for thread in running():
            thread.join()

    live = live_negatives(mined, corpus, n=3)
    seen = At(step_7=finish, step_6=lambda: threads.append(live.source.progress.generation))
    done = train(
        live, tmp_path, [wait, RelativeMargin(MARGIN)], 4, save=[4], callbacks=[seen], max_steps=11,
        options={"background": True, "keep": 9},
    )  # fmt: skip
    assert threads[:2] == ["RefreshNegatives", 0]
    first = done.refresh.history[0]
    assert (first["model_step"], first["step"], first["generation"]) == (4, 8, 1)
    model = SentenceTransformer(str(tmp_path / "checkpoint-4"), device="cpu")
    expected = from_scratch(mined, corpus, chain(corpus), model)[-1]
    assert lists_of(generations(tmp_path)[1])[1] == rows_of(corpus, expected)
    assert not running()
    assert any(one.get("refresh_model_step") == 4 for one in done.log)


def test_a_refresh_in_the_background_does_not_disturb_the_training(corpus, queries, tmp_path):
    rows = queries.map(BM25Negatives(corpus, k=6), batched=True)
    plain = train(live_negatives(rows, corpus, n=3), tmp_path / "plain")
    steps = [partial(DenseNegatives, corpus, k=5), BM25Negatives(corpus, k=6)]
    live = live_negatives(rows, corpus, n=3)
    done = train(live, tmp_path / "beside", steps[1:], 3, options={"background": True})
    assert done.refresh.history
    done.same_end(plain, plain.losses)


def test_a_training_goes_on_from_a_checkpoint_of_the_time_of_a_refresh_in_the_background(corpus, mined, tmp_path):
    """What was under way is lost; the next refresh comes at its time."""
    free, waited = threading.Event(), []

    def wait(model):
        waited.append(free.wait(20))
        return DenseNegatives(corpus, model, k=K)

    options = {"background": True, "keep": 9}
    live = live_negatives(mined, corpus, n=3)
    train(live, tmp_path, [wait], 4, save=[6], max_steps=8, callbacks=[At(step_7=free.set)], options=options)
    noted = json.loads((tmp_path / "checkpoint-6" / "live_negatives.json").read_text())[live.source.name]
    assert (noted["generation"], noted["history"]) == (0, [])
    live = live_negatives(mined, corpus, n=3)
    done = train(live, tmp_path, [wait], 4, resume=tmp_path / "checkpoint-6", max_steps=60, options=options)
    assert done.refresh.history[0]["model_step"] == 8
    assert done.refresh.history[0]["generation"] == 1
    assert all(waited)


def test_an_error_in_the_background_is_raised_in_the_training(corpus, mined, tmp_path):
    def fail(model):
        raise ArithmeticError("no such luck")

    for max_steps in (24, 5):
        with pytest.raises(RuntimeError) as caught:
            train(
                live_negatives(mined, corpus, n=3), tmp_path, [fail], 4, max_steps=max_steps,
                options={"background": True},
            )  # fmt: skip
        chained = f"{caught.value} {caught.value.__cause__!r}"
        assert "no such luck" in chained


def test_an_error_in_the_foreground_is_raised_as_it_is(corpus, mined, tmp_path):
    def fail(model):
        raise ArithmeticError("no such luck")

    with pytest.raises(ArithmeticError, match="no such luck"):
        train(live_negatives(mined, corpus, n=3), tmp_path, [fail], 4)
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4)
    assert len(done.refresh.history) == 5
