"""A run by the actors of a real Ray cluster: the same bytes, an actor that dies, and what is refused in a sentence.

They take minutes and want cores that are free, since Ray gives its own processes 30 seconds to start:
``WEAKSAM_RAY_TESTS=1 python -m pytest -m slow tests/pipeline/test_ray.py`` runs them.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import ROOT, TOY_RUN
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.store.files import file_sha256

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("WEAKSAM_RAY_TESTS" not in os.environ, reason="set WEAKSAM_RAY_TESTS=1 to start Ray clusters"),
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
ENVIRONMENT |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


class Cluster(NamedTuple):
    """A running cluster of two cores, which has a disk of its own in place of the folder ``hidden``, if it may."""

    address: str
    hidden: Path | None


def started(ray: list[str], log: Path, attempts: int = 3) -> subprocess.Popen[bytes]:
    """The head of a cluster, once it says that it runs: on a busy machine Ray may not wait long enough for itself."""
    with open(log, "w") as file:
        process = subprocess.Popen(ray, env=ENVIRONMENT, stdout=file, stderr=file, start_new_session=True)
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None:
            assert attempts > 1, log.read_text()[-3000:]
            return started(ray, log, attempts - 1)
        time.sleep(0.5)
    return process


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Started by ``ray start`` on the loopback address, and stopped."""
    hidden = tmp_path_factory.mktemp("hidden")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--object-store-memory={80 << 20}"]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
    ray += ["--include-dashboard=false", "--disable-usage-stats"]
    alone = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]
    if may_hide := subprocess.run([*alone, "true"], check=False, capture_output=True).returncode == 0:
        ray = [*alone, *ray]
    process = started(ray, tmp_path_factory.mktemp("log") / "ray.txt")
    try:
        yield Cluster(f"127.0.0.1:{port}", hidden if may_hide else None)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 34 training scenes, which are two parts, and two of test."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(
        folder / "scenes", SceneSettings(size=64, num_classes=2, max_clutter=0, max_distractors=0), 34, 2, seed=1
    )
    return folder


def command(*arguments: str | Path) -> list[str]:
    files = (("images", "{}"), ("tags", "tags_{}.json"), ("truth", "instances_{}.json"))
    data = [f"data.{s}.{name}=scenes/{file.format(s)}" for s in ("train", "test") for name, file in files]
    return [sys.executable, "-m", "weaksam", "run", *TOY_RUN, *data, *map(str, arguments)]


def ran(folder: Path, *arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, **changes}
    return subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, check=False)


def refused(folder: Path, *arguments: str | Path, **changes: str) -> str:
    """The one sentence of weaksam by which the run ends, the environment changed; Ray may say more."""
    ended = ran(folder, *arguments, **changes)
    sentences = [line for line in ended.stderr.splitlines() if line.startswith("weaksam: ")]
    assert ended.returncode == 2 and len(sentences) == 1 and "Traceback" not in ended.stderr, ended.stderr[-3000:]
    return sentences[0]


def stores_of(out: Path) -> dict[str, str]:
    """SHA-256 of every file of the stores, weights and manifests among them, and of the detections beside them."""
    files = [*out.glob("*/store/**/*"), *out.glob("*/*detections*.json"), out / "pseudo_gt/train.json"]
    return {path.relative_to(out).as_posix(): file_sha256(path) for path in files if path.is_file()}


def actors() -> list[int]:
    """The processes of the actors that run now on this machine."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::PartWorker"):
            numbers.append(int(path.name))
    return numbers


def test_all_stages_by_actors_one_of_which_dies_give_the_bytes_of_one_process(scenes: Path, cluster: Cluster) -> None:
    options = ["--launcher", "ray", "--address", cluster.address, "--workers", "2"]
    process = subprocess.Popen(
        command("out=ray", *options), cwd=scenes, env=ENVIRONMENT, stdout=-1, stderr=subprocess.STDOUT, text=True
    )
    proposals = scenes / "ray/proposals/store"
    while not list(proposals.glob("train-*")):  # both actors get a part now
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(actors()[0], signal.SIGKILL)
    text, _ = process.communicate()
    assert process.returncode == 0, text[-3000:]
    assert text.count(" died, part-0000") == 1
    alone = ran(scenes, "out=alone", "workers=1")
    assert alone.returncode == 0, alone.stderr[-3000:]
    stores = stores_of(scenes / "ray")
    assert stores == stores_of(scenes / "alone")
    assert sum(path.startswith("wsis/") for path in stores) > 3
    assert not list((scenes / "ray").glob(".*"))


def test_a_cluster_of_its_own_and_fewer_parts_than_actors(scenes: Path) -> None:
    ended = ran(scenes, "out=own", "--until", "proposals", "--launcher", "ray", "--workers", "4")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "ray: 2 actors instead of 4, as there are no more parts of photos" in ended.stderr
    assert "proposals: " in ended.stdout


def test_what_cannot_work_is_refused_in_a_sentence(scenes: Path, cluster: Cluster) -> None:
    by_ray = ["--until", "proposals", "--launcher", "ray"]
    on_cluster = [*by_ray, "--address", cluster.address]
    sentence = refused(scenes, "out=a", *on_cluster, "--workers", "3")
    assert "wanted 3 actors of 1 cores each, found 2 cores in the Ray cluster: give --workers 2" in sentence
    sentence = refused(scenes, "out=a", *on_cluster, RAY_AUTH_MODE="disabled")
    assert "found that it asks for another token: set RAY_AUTH_MODE=token" in sentence
    assert "found no answer" in refused(scenes, "out=a", *by_ray, "--address", "127.0.0.1:1")
    assert "wanted --address HOST:PORT" in refused(scenes, "out=a", *by_ray, "--address", "ray://here")
    if cluster.hidden is not None:  # the actors see another folder of that name
        (cluster.hidden / "seen").mkdir()
        sentence = refused(scenes, f"out={cluster.hidden / 'seen/out'}", *on_cluster, "--workers", "1")
        assert "found another one or none there: put out=DIR on a disk that all machines share" in sentence


CHANGE_VERSION = """
import json, sys, ray
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray._private import ray_constants
ray.init(address=sys.argv[1], log_to_driver=False)
namespace = ray_constants.KV_NAMESPACE_CLUSTER
metadata = json.loads(_internal_kv_get(CLUSTER_METADATA_KEY, namespace=namespace))
changed = json.dumps({**metadata, **json.loads(sys.argv[2])}).encode()
_internal_kv_put(CLUSTER_METADATA_KEY, changed, namespace=namespace)
"""


def test_a_cluster_of_another_version_is_refused(scenes: Path, cluster: Cluster) -> None:
    """It says so of itself: what Ray compares is changed there."""
    import ray

    python = sys.version.split()[0]
    changes = f'{{"ray_version": "1.2.3", "python_version": "{python}"}}'
    change = [sys.executable, "-c", CHANGE_VERSION, cluster.address, changes]
    changed = subprocess.run(change, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert changed.returncode == 0, changed.stderr[-2000:]
    options = ["--until", "proposals", "--launcher", "ray", "--address", cluster.address]
    sentence = refused(scenes, "out=c", *options)
    wanted = rf"wanted the Ray {ray.__version__} and Python {python} of this process in .* found Ray 1\.2\.3 and Python"
    assert re.search(wanted, sentence)
