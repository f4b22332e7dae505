"""Processes that are launched together, as by `accelerate launch`, share the encoding of a corpus."""

import socket

import new_processes
import numpy as np
from datasets import Dataset

from hnm_datasets import Corpus
from hnm_datasets.storage.digests import digest_strings

SCRIPT = """
import os, sys, time
from pathlib import Path
import numpy as np
from accelerate import PartialState
from hnm_datasets import Corpus
from hnm_datasets.storage.digests import digest_strings

state = PartialState(cpu=True)
folder, corpus = Path(sys.argv[1]), Corpus(sys.argv[2])

def model(texts):
    time.sleep(0.02)
    with (folder / f"{state.process_index}-of-{state.num_processes}").open("a") as file:
        file.write("".join(f"{text}\\n" for text in texts))
    return digest_strings(texts) % 997 + 1.0

# Both begin together.
state.wait_for_everyone()
embeddings = corpus.embed(model, fingerprint="hashes", batch_size=256)
(folder / f"fingerprint-{state.process_index}").write_text(embeddings.fingerprint)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_two_processes_encode_a_corpus_once(tmp_path):
    texts = [f"plate {row} moves" for row in range(5 * 4096)]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": [str(row) for row in range(len(texts))], "text": texts}))
    script = tmp_path / "encode.py"
    script.write_text(SCRIPT)
    # As a launcher starts them.
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        new_processes.start(
            script, tmp_path, corpus.fingerprint, log=tmp_path / f"log-{rank}", **places, RANK=rank, LOCAL_RANK=rank
        )
        for rank in "01"
    ]
    for rank, process in enumerate(ranks):
        process.join(timeout=100)
        assert process.exitcode == 0, (tmp_path / f"log-{rank}").read_text()
    encoded = [(tmp_path / f"{rank}-of-2").read_text().splitlines() for rank in range(2)]
    assert sorted(encoded[0] + encoded[1]) == sorted(texts), "each passage by one of them"
    names = {(tmp_path / f"fingerprint-{rank}").read_text() for rank in range(2)}
    embeddings = corpus.embed(lambda _: None, fingerprint="hashes", batch_size=256)
    assert names == {embeddings.fingerprint}
    vectors = digest_strings(texts) % 997 + 1.0
    expected = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    np.testing.assert_allclose(embeddings.vectors, expected, rtol=1e-6)
