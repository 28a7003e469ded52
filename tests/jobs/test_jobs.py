"""Folders classified in parts: exactly once, whatever is killed, by whichever engine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from resnetkit.__main__ import main
from resnetkit.folders.classifier import Classifier
from resnetkit.jobs import job, parts
from resnetkit.jobs.engines import EngineError, LocalEngine, RayEngine
from resnetkit.jobs.job import JobOptions, LostPartsError, classify_into_parts
from resnetkit.jobs.plan import JobError
from resnetkit.machine.progress import Progress, Stopped
from resnetkit.machine.threads import count_cores
from resnetkit.parameters.inference import InferParameters

#: Ends a process that opens a file of this name, as an image might that a decoder cannot bear.
HOOK = """
import os, sys
sys.addaudithook(lambda event, args: os._exit(9) if event == "open" and str(args[0]).endswith("1-deadly.png") else None)
"""


@pytest.fixture(scope="module")
def pictures(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures, and 3 files that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in sorted(digits_folder.rglob("*.png"))[:40]:
        shutil.copy(path, folder)
    for number in range(3):
        (folder / f"{number}-damaged.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def classifier(checkpoint_path: Path) -> Classifier:
    return Classifier(InferParameters().updated({"model_weight_file": str(checkpoint_path), "runtime": "torch"}))


@pytest.fixture(scope="module")
def expected(classifier: Classifier, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The rows of an uninterrupted job."""
    folder = tmp_path_factory.mktemp("expected") / "parts"
    classify_into_parts(classifier, [str(pictures)], folder, JobOptions(part_size=10))
    return read(folder)


def read(folder: Path) -> pa.Table:
    """Return the rows of all parts; nothing else may be in the folder."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("_"))
    assert names == [parts.name_part(number) for number in range(len(names))]
    return pa.concat_tables([parquet.read_table(folder / name) for name in names])


def assert_same(one: pa.Table, other: pa.Table) -> None:
    assert one.schema == other.schema
    for name in one.column_names:
        left, right = one.column(name).to_pylist(), other.column(name).to_pylist()
        if pa.types.is_string(one.schema.field(name).type):
            assert left == right
        else:
            np.testing.assert_allclose(np.array(left, float), np.array(right, float), atol=1e-5)


def test_every_file_has_one_row_and_damaged_ones_an_error(expected: pa.Table, pictures: Path) -> None:
    paths = expected.column("path").to_pylist()
    assert paths == [str(path) for path in sorted(pictures.iterdir())]
    failed = [path for path, error in zip(paths, expected.column("error").to_pylist(), strict=True) if error]
    assert [Path(path).name for path in failed] == ["0-damaged.png", "1-damaged.png", "2-damaged.png"]


def test_a_stopped_job_goes_on_where_it_ended(classifier, pictures, expected, tmp_path, monkeypatch):
    folder, options = tmp_path / "parts", JobOptions(part_size=10)
    with pytest.raises(Stopped, match="the same command goes on"):
        classify_into_parts(classifier, [str(pictures)], folder, options, Progress(lambda: True))
    there = [path.name for path in folder.glob("*.parquet")]
    assert there == ["part-000000.parquet"]
    # What a killed process was writing, and a picture that came later.
    (folder / ".part-000001.0123abcd.tmp.parquet").write_bytes(b"PAR1")
    before = (folder / there[0]).stat().st_mtime_ns
    summary = classify_into_parts(classifier, [str(pictures)], folder, options)
    assert (summary.num_files, summary.num_errors, summary.num_parts, summary.num_there) == (43, 3, 5, 1)
    assert (folder / there[0]).stat().st_mtime_ns == before
    assert_same(read(folder), expected)


def test_the_list_of_files_stays_that_of_the_plan(classifier, pictures, expected, tmp_path):
    copy = Path(shutil.copytree(pictures, tmp_path / "copy"))
    folder, options = tmp_path / "parts", JobOptions(part_size=10)
    classify_into_parts(classifier, [str(copy)], folder, options)
    (folder / "part-000002.parquet").unlink()
    shutil.copy(copy / "0-damaged.png", copy / "later.png")
    assert classify_into_parts(classifier, [str(copy)], folder, options).num_files == 43
    assert len(read(folder)) == 43


def test_shards_and_addresses_give_the_rows_of_their_files(classifier, pictures, expected, tmp_path):
    files = sorted(pictures.iterdir())
    system = fsspec.filesystem("memory")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for path in files[:20]:
            archive.add(path, path.name)
    for path in files[20:30]:
        system.put_file(str(path), f"/bucket/{path.name}")
    rows = pa.table({"image": [path.read_bytes() for path in files[30:]]})
    parquet.write_table(rows, tmp_path / "rest.parquet", row_group_size=4)
    sources = [str(tmp_path / "0.tar"), "memory://bucket", str(tmp_path / "rest.parquet")]
    try:
        classify_into_parts(classifier, sources, tmp_path / "parts", JobOptions(part_size=10))
    finally:
        system.rm("/bucket", recursive=True)
    found = read(tmp_path / "parts")
    keys = [
        *(f"{tmp_path}/0.tar/{path.name}" for path in files[:20]),
        *(f"memory://bucket/{path.name}" for path in files[20:30]),
        *(f"{tmp_path}/rest.parquet/{row}" for row in range(13)),
    ]
    assert found.column("path").to_pylist() == keys
    names = [name for name in expected.column_names if name != "path"]
    assert_same(found.select(names), expected.select(names))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"part_size": 11}, "its part size was 10, this one's is 11", id="part size"),
        pytest.param({"has_probabilities": True}, "its 'probabilities' was False", id="columns"),
        pytest.param({"top_k": 3}, "its 'top_k' was 5, this one's is 3", id="parameters"),
        pytest.param({"confidence_threshold": 0.5}, "its model was resnet18-", id="model"),
        pytest.param({"precision": "fp16"}, "its 'precision' was fp32, this one's is fp16", id="precision"),
        pytest.param({"runtime": "openvino"}, "its 'runtime' was torch, this one's is openvino", id="runtime"),
    ],
)
def test_the_parts_of_another_job_are_refused(classifier, pictures, tmp_path, change, reason):
    classify_into_parts(classifier, [str(pictures)], tmp_path / "parts", JobOptions(part_size=10))
    values = classifier.values.updated(
        {name: value for name, value in change.items() if hasattr(classifier.values, name)}
    )
    settings = {name: value for name, value in change.items() if not hasattr(values, name)}
    options = JobOptions(**{"part_size": 10, **settings})
    with pytest.raises(JobError, match=reason):
        classify_into_parts(Classifier(values), [str(pictures)], tmp_path / "parts", options)


def test_a_folder_of_something_else_is_refused(classifier, pictures):
    with pytest.raises(JobError, match="holds something else"):
        classify_into_parts(classifier, [str(pictures)], pictures)


def test_a_damaged_part_is_named(classifier, pictures, tmp_path):
    classify_into_parts(classifier, [str(pictures)], tmp_path / "parts", JobOptions(part_size=10))
    (tmp_path / "parts" / "part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(LostPartsError, match=r"part-000001\.parquet' is damaged: delete it, and the same command"):
        classify_into_parts(classifier, [str(pictures)], tmp_path / "parts", JobOptions(part_size=10))


def test_a_job_that_is_started_twice_ends_twice(classifier, pictures, expected, tmp_path, monkeypatch):
    """The first start to end removes what the other one is writing."""
    folder, options = tmp_path / "parts", JobOptions(part_size=10)
    write_table = parquet.write_table

    def be_overtaken(table, temporary):
        monkeypatch.setattr(parquet, "write_table", write_table)
        write_table(table, temporary)
        classify_into_parts(classifier, [str(pictures)], folder, options)

    monkeypatch.setattr(parquet, "write_table", be_overtaken)
    assert classify_into_parts(classifier, [str(pictures)], folder, options).num_files == 43
    assert_same(read(folder), expected)


def test_a_job_without_an_image_leaves_no_folder(classifier, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match="no images in"):
        classify_into_parts(classifier, [str(tmp_path / "empty")], tmp_path / "parts")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_damaged_plan_is_refused(classifier, pictures, tmp_path):
    (tmp_path / "_plan.json").write_text('{"sources": 3}')
    with pytest.raises(JobError, match="is no plan of this program"):
        classify_into_parts(classifier, [str(pictures)], tmp_path)


def test_another_list_than_the_plans_is_refused(classifier, pictures, tmp_path):
    classify_into_parts(classifier, [str(pictures)], tmp_path / "parts", JobOptions(part_size=10))
    (tmp_path / "parts" / "part-000001.parquet").unlink()
    (tmp_path / "parts" / "_paths.jsonl").write_text('"other.png"\n' * 43, encoding="utf-8")
    with pytest.raises(JobError, match="is not the list that the plan was made with"):
        classify_into_parts(classifier, [str(pictures)], tmp_path / "parts", JobOptions(part_size=10))


def test_parts_that_are_lost_twice_are_named(classifier, pictures, tmp_path, monkeypatch):
    class Forgetful(LocalEngine):
        def run(self, parts, folder, progress, bar):
            super().run([part for part in parts if part[0] != 2], folder, progress, bar)

    monkeypatch.setattr(job, "LocalEngine", Forgetful)
    with pytest.raises(LostPartsError, match=r"1 of 5 parts could not be done, in two passes: part-000002\.parquet;"):
        classify_into_parts(classifier, [str(pictures)], tmp_path / "parts", JobOptions(part_size=10))
    assert len(list((tmp_path / "parts").glob("*.parquet"))) == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output", "rows.csv", "--engine", "ray"], "expected --output FOLDER/, got 'rows.csv'"),
        (["--output", "rows/", "--engine", "rai"], "must be one of local, ray, got 'rai'; did you mean 'ray'?"),
        (["--output", "rows/", "--part-size", "0"], "'--part-size' must be an integer of at least 1, got '0'"),
        (["--output", "rows/", "--annotate", "drawn"], "'--annotate' draws while a table is written"),
    ],
)
def test_wrong_use_is_one_sentence(checkpoint_path, pictures, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["classify", str(checkpoint_path), str(pictures), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_ray_it_is_said_what_to_install(classifier, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(JobError, match=r"pip install 'resnet-for-ikomia\[scale\]', or take the engine local"):
        classify_into_parts(classifier, [str(pictures)], tmp_path / "parts", JobOptions(engine="ray"))


def test_ray_is_told_the_cores_of_this_process(classifier, tmp_path, monkeypatch):
    """It counts those of the machine, and would start a worker for each."""
    told = {}

    def init(address, **settings):
        told.update(settings, address=address)
        raise ConnectionError("enough")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    monkeypatch.setitem(sys.modules, "ray.data", SimpleNamespace())
    with pytest.raises(EngineError, match=r"^Ray cannot be started \(enough\); try again, or take the engine local"):
        RayEngine(classifier.values, False, 0).run([], tmp_path, Progress(), None)
    assert (told["address"], told["num_cpus"]) == ("local", count_cores())


def test_an_address_without_a_cluster_is_named(classifier, pictures, tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "ray.data", SimpleNamespace())
        with pytest.raises(JobError, match=f"RAY_ADDRESS is '{address}', where no cluster answers"):
            classify_into_parts(classifier, [str(pictures)], tmp_path / "parts", JobOptions(engine="ray"))
    assert not (tmp_path / "parts").exists()


def list_open_addresses(process: psutil.Process) -> set[str]:
    """Return the addresses on which a process and what it started listen."""
    addresses = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            found = each.net_connections("inet")
        except psutil.Error:
            continue
        addresses |= {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}
    return addresses


def run_command(words: Sequence[str], folder: Path, variables: Mapping[str, str]) -> tuple[int, str, set[str]]:
    """Run a command; return its exit status, what it said, and on which addresses anything of it listened."""
    addresses: set[str] = set()
    with (folder / "said.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "resnetkit", *words],
            env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started: set[psutil.Process] = set()
        deadline = time.monotonic() + 330
        while process.poll() is None and time.monotonic() < deadline:
            try:
                started |= set(psutil.Process(process.pid).children(recursive=True))
                addresses |= list_open_addresses(psutil.Process(process.pid))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.3)
        process.kill()
        status = process.wait()
    _, left = psutil.wait_procs(started, timeout=20)
    for each in left:
        each.kill()
    assert left == []
    return status, (folder / "said.txt").read_text(encoding="utf-8"), addresses


def can_ray_start() -> bool:
    """Tell whether Ray's own processes run here, without anything of ours."""
    code = "import ray; ray.init('local', num_cpus=1, include_dashboard=False); ray.shutdown()"
    variables = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    try:
        return subprocess.run([sys.executable, "-c", code], env=variables, timeout=90, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install '.[scale]'")
def test_ray_loses_but_the_deadly_part_and_the_other_engine_does_it(checkpoint_path, pictures, tmp_path):
    source = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    shutil.copy(source / "0-damaged.png", source / "1-deadly.png")
    lost = parts.name_part(sorted(source.iterdir()).index(source / "1-deadly.png") // 10)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    paths = os.pathsep.join([str(tmp_path / "hook"), os.environ["PYTHONPATH"]])
    words = ["classify", str(checkpoint_path), str(source), "--output", f"{tmp_path / 'parts'}/", "--part-size=10"]
    workers = str(max(1, len(os.sched_getaffinity(0))))  # as many as cores: none is left for anything else
    for _ in range(2):  # on a busy machine, Ray's own processes may need longer to start than Ray gives them
        status, said, addresses = run_command(
            [*words, "--engine=ray", "--workers", workers], tmp_path, {"PYTHONPATH": paths}
        )
        if "during startup" not in said:
            break
    if lost not in said and not can_ray_start():
        pytest.skip("Ray itself does not start on this machine")
    assert status == 1, said
    assert f"1 of 5 parts could not be done, in two passes: {lost};" in said
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert len(list((tmp_path / "parts").glob("*.parquet"))) == 4
    assert main(words) == 0
    assert len(set(read(tmp_path / "parts").column("path").to_pylist())) == 44
    assert sum(map(bool, read(tmp_path / "parts").column("error").to_pylist())) == 4
