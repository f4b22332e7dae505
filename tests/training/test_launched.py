"""Processes that are launched together, as by `accelerate launch`, share the encoding of a corpus."""

import socket
import subprocess
import sys

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
    # What `accelerate launch` runs where there are several GPUs; without one it starts no second process.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    launch += [str(script), str(tmp_path), corpus.fingerprint]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    encoded = [(tmp_path / f"{rank}-of-2").read_text().splitlines() for rank in range(2)]
    assert sorted(encoded[0] + encoded[1]) == sorted(texts), "each passage by one of them"
    names = {(tmp_path / f"fingerprint-{rank}").read_text() for rank in range(2)}
    embeddings = corpus.embed(lambda _: None, fingerprint="hashes", batch_size=256)
    assert names == {embeddings.fingerprint}
    vectors = digest_strings(texts) % 997 + 1.0
    expected = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    np.testing.assert_allclose(embeddings.vectors, expected, rtol=1e-6)
