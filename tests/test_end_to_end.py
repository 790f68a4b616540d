"""The whole workflow: train, kill, resume, export, serve, request an image."""

import io
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from tests.support.images import real_mnist, write_idx
from tests.support.servers import ganymede, serving
from training.checkpoints import Checkpoint


@pytest.mark.slow
def test_train_resume_export_and_serve(tmp_path, models):
    data = real_mnist()
    if data is None:
        data = tmp_path / "digits"
        data.mkdir()
        write_idx(data, count=6000)
    run = tmp_path / "runs" / "x"
    command = ganymede("train", "gan-mnist", f"data.path={data}", "train.images=20000")
    command += ["train.checkpoint_images=2000", "--out", str(run)]

    # Train, and kill the process in the middle.
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    checkpoint = run / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < Checkpoint.load(checkpoint).images < 19_968

    # The same command resumes and finishes the run.
    resumed = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "resumes at" in resumed.stderr
    assert Checkpoint.load(checkpoint).images == 19_968

    # The exported model is served together with the existing ones.
    before = {path.name for path in models.iterdir()}
    export = ganymede("export", run, "--name", "mine", "--models", models)
    subprocess.run(export, check=True, capture_output=True)
    with serving(models) as server, server.client() as client:
        names = [card["name"] for card in client.get("/v1/models").json()["data"]]
        assert names == [*sorted(before), "mine"]
        body = {"model": "mine", "seed": 7}
        response = client.post("/v1/generate", json=body, headers={"accept": "image/png"})
        assert response.status_code == 200
        image = np.asarray(Image.open(io.BytesIO(response.content)))
        assert image.shape == (28, 28)
        assert image.std() > 5
