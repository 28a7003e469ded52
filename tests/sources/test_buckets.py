"""Images and data sets in a bucket: a local server that speaks S3, where moto and s3fs are installed."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from resnetkit.__main__ import main

moto_server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]' s3fs")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'moto[server]' s3fs")

TRAIN = (
    "--no-use-pretrained", "--no-feature-extract", "--input-size=32", "--batch-size=8", "--optimizer=sgd",
    "--learning-rate=0.02", "--tracking=off", "--no-export-pth", "--epochs=1", "--quiet",
)  # fmt: skip


@pytest.fixture(scope="module")
def bucket() -> Iterator[s3fs.S3FileSystem]:
    """An empty bucket, `s3://bucket`, behind a server that listens on 127.0.0.1."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        system = s3fs.S3FileSystem()
        system.mkdir("bucket")
        yield system
        system.clear_instance_cache()
    server.stop()


def test_a_bucket_is_classified_and_trained_on_as_a_folder(
    bucket, three_digits, checkpoint_path, tmp_path, without_report
):
    bucket.put(str(three_digits), "bucket/digits", recursive=True)
    shutil.make_archive(str(tmp_path / "all"), "tar", three_digits)
    bucket.put(str(tmp_path / "all.tar"), "bucket/shards/all.tar")
    sources = {"files": str(three_digits), "objects": "s3://bucket/digits", "shards": "s3://bucket/shards"}
    answers = {}
    for name, source in sources.items():
        assert main(["train", source, *TRAIN, "--run-folder", str(tmp_path / name)]) == 0
        images = "s3://bucket/shards/*.tar" if name == "shards" else source
        assert main(["classify", str(checkpoint_path), images, "--quiet", "--output", f"{tmp_path / name}.csv"]) == 0
        with Path(f"{tmp_path / name}.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = [(row["path"], row["label"], row["confidence"], row["error"]) for row in csv.DictReader(file)]
        answers[name] = sorted((Path(path).name, *rest) for path, *rest in rows)
        assert rows[0][0].startswith(images.split("*")[0])
    assert len(answers["files"]) == 57
    assert answers["objects"] == answers["shards"] == answers["files"]
    expected = load_file(tmp_path / "files" / "best.safetensors")
    for name in ("objects", "shards"):
        weights = load_file(tmp_path / name / "best.safetensors")
        assert all(weights[key].equal(expected[key]) for key in expected)


def test_what_is_not_there_is_said(bucket, checkpoint_path, tmp_path, capsys):
    words = ["classify", str(checkpoint_path), "--quiet", "--output", str(tmp_path / "rows.csv")]
    assert main([*words, "s3://nowhere/digits"]) != 0
    assert "s3://nowhere/digits" in capsys.readouterr().err
    assert main([*words, "s3://bucket/nothing.png"]) == 0
    assert "s3://bucket/nothing.png" in (tmp_path / "rows.csv").read_text(encoding="utf-8")
