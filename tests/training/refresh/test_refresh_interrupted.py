"""A training that did not end, and the next one in the same process: a cell of a notebook that is run again."""

import threading
from functools import partial

import pytest
from refresh_helpers import At, chain, generations, lists_of, make_model, running, train
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from transformers import TrainerCallback

from hnm_datasets import DenseNegatives
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import RefreshNegatives

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def fail_with(error):
    def fail():
        raise error

    return fail


class Breaking:
    """Makes the miner of a refresh; the wanted one of them fails."""

    def __init__(self, corpus, at, error):
        self.corpus, self.at, self.error, self.calls = corpus, at, error, 0

    def __call__(self, model):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return DenseNegatives(self.corpus, model, k=12)


class Soon(TrainerCallback):
    """Does something in another thread, a moment after a training began."""

    def __init__(self, deed):
        self.deed = deed

    def on_train_begin(self, *args, **kwargs):
        threading.Timer(0.3, self.deed).start()


class Kept:
    """Keeps what a notebook keeps: the objects of the cell, and the traceback."""

    def __init__(self):
        self.errors = []

    def run(self, error, *args, **options):
        with pytest.raises(error) as caught:
            train(*args, **options)
        # The traceback holds the trainer, the callback and the rows.
        self.errors.append(caught)


@pytest.fixture(scope="module")
def reference(corpus, mined, tmp_path_factory):
    return train(live_negatives(mined, corpus, n=3), tmp_path_factory.mktemp("reference"), chain(corpus), 5)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("out of memory")], ids=["interrupt", "memory"])
@pytest.mark.parametrize("step", [2, 11])
def test_a_cell_that_was_interrupted_runs_again(corpus, mined, tmp_path, reference, step, error):
    kept = Kept()
    for _ in range(2):
        live = live_negatives(mined, corpus, n=3)
        kept.run(
            type(error), live, tmp_path / "cell", chain(corpus), 5, callbacks=[At(**{f"step_{step}": fail_with(error)})]
        )
    again = train(live_negatives(mined, corpus, n=3), tmp_path / "cell", chain(corpus), 5)
    again.same_end(reference, reference.losses)
    assert [one["generation"] for one in again.refresh.history] == [1, 2, 3, 4]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupt_while_negatives_are_mined(corpus, mined, tmp_path, reference, at, error):
    live, kept = live_negatives(mined, corpus, n=3), Kept()
    model = make_model()
    kept.run(error, live, tmp_path / "cell", [Breaking(corpus, at, error("stop")), *chain(corpus)[1:]], 5, model=model)
    assert model.training, "the mode in which the model is trained is restored"
    # The same rows, or new ones.
    for again in (live, live_negatives(mined, corpus, n=3)):
        done = train(again, tmp_path / "cell", chain(corpus), 5)
        done.same_end(reference, reference.losses)


@pytest.mark.parametrize(
    ("save", "way_out"),
    [
        ((), r"There is no checkpoint, so trainer\.train\(\) starts from the beginning"),
        ((2, 9), r"resume_from_checkpoint=True\) resumes from checkpoint-9\."),
    ],
)
def test_an_interrupted_refresh_says_what_the_training_resumes_from(corpus, mined, tmp_path, save, way_out):
    steps = [Breaking(corpus, 2, KeyboardInterrupt()), *chain(corpus)[1:]]
    with pytest.raises(KeyboardInterrupt, match=rf"^RefreshNegatives was interrupted at step 10\. .*{way_out}"):
        train(live_negatives(mined, corpus, n=3), tmp_path, steps, 5, save=save)


def test_an_interrupt_while_the_first_negatives_are_mined(corpus, queries, tmp_path):
    kept = Kept()
    steps = [Breaking(corpus, 1, KeyboardInterrupt()), *chain(corpus)[1:]]
    kept.run(KeyboardInterrupt, live_negatives(queries, corpus, n=3), tmp_path / "cell", steps, 5, max_steps=7)
    again = train(live_negatives(queries, corpus, n=3), tmp_path / "cell", chain(corpus), 5, max_steps=7)
    fresh = train(live_negatives(queries, corpus, n=3), tmp_path / "fresh", chain(corpus), 5, max_steps=7)
    again.same_end(fresh, fresh.losses)


@pytest.mark.parametrize("same_callback", [False, True])
def test_a_refresh_in_the_background_of_an_interrupted_training_ends_first(
    corpus, mined, tmp_path, reference, same_callback
):
    begun, go_on, models = threading.Event(), threading.Event(), []

    def wait(model):
        models.append(model)
        if len(models) == 1:
            begun.set()
            assert go_on.wait(60)
        return DenseNegatives(corpus, model, k=12)

    def interrupt():
        assert begun.wait(60)
        raise KeyboardInterrupt

    live = live_negatives(mined, corpus, n=3)
    steps = [wait, *chain(corpus)[1:]]
    refresh = RefreshNegatives(live, steps, 5, background=True)
    with pytest.raises(KeyboardInterrupt) as kept:
        train(live, tmp_path / "cell", callbacks=[refresh, At(step_7=interrupt)], learning_rate=2.0)
    assert kept
    assert running()
    if same_callback:
        refresh.background = False
    else:
        live = live_negatives(mined, corpus, n=3)
        refresh = RefreshNegatives(live, chain(corpus), 5)
    # It goes on when the next training has begun, and ends before that one's first refresh, if it is not stopped.
    callbacks = [Soon(go_on.set), refresh, At(step_3=lambda: [thread.join() for thread in running()])]
    done = train(live, tmp_path / "cell", callbacks=callbacks)
    assert not running()
    done.same_end(reference, reference.losses)
    wanted = generations(reference.trainer.args.output_dir)
    found = generations(tmp_path / "cell")
    assert {number: lists_of(path) for number, path in found.items()} == {
        number: lists_of(path) for number, path in wanted.items()
    }


def test_a_refresh_in_the_background_that_failed_is_no_obstacle(corpus, mined, tmp_path, reference):
    kept = Kept()
    steps = [Breaking(corpus, 1, MemoryError("out of memory")), *chain(corpus)[1:]]
    live = live_negatives(mined, corpus, n=3)
    kept.run(RuntimeError, live, tmp_path / "cell", steps, 5, options={"background": True})
    done = train(live, tmp_path / "cell", chain(corpus), 5)
    done.same_end(reference, reference.losses)


def test_the_same_trainer_trains_again(corpus, mined, tmp_path):
    errors = [KeyboardInterrupt()]

    def once():
        if errors:
            raise errors.pop()

    live = live_negatives(mined, corpus, n=3)
    refresh = RefreshNegatives(live, [partial(DenseNegatives, corpus, k=12)], 5)
    model = make_model()
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=12, per_device_train_batch_size=4, logging_steps=1, report_to=[],
        save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=live, loss=HardNegativesRankingLoss(model),
        callbacks=[refresh, At(step_7=once)],
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    assert [one["step"] for one in refresh.history] == [5, 10]
    # A third one, with another trainer of the same callback.
    SentenceTransformerTrainer(
        model=model, args=args, train_dataset=live, loss=HardNegativesRankingLoss(model), callbacks=[refresh]
    ).train()
    assert [one["step"] for one in refresh.history] == [5, 10]


def test_two_sets_of_the_same_queries_in_one_training_are_refused_still(corpus, mined, tmp_path):
    one, other = (live_negatives(mined, corpus, n=3) for _ in range(2))
    second = RefreshNegatives(other, chain(corpus), 5)
    for _ in range(2):
        with pytest.raises(ValueError, match="two datasets with the same queries"):
            train(one, tmp_path, chain(corpus), 5, callbacks=[second])
