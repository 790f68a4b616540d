"""The whole path as a user walks it: train, be killed, go on, export, serve, look."""

import io
import signal
import subprocess
import time

import numpy as np
from PIL import Image

from tests.conftest import TINY
from tests.support.images import real_mnist, write_idx
from tests.support.servers import ganymede, serving
from training.checkpoints import Checkpoint


def test_from_pictures_to_an_image_over_http(tmp_path, models):
    pictures = real_mnist()
    if pictures is None:
        pictures = tmp_path / "digits"
        pictures.mkdir()
        write_idx(pictures, count=6000)
    run = tmp_path / "runs" / "x"
    command = ganymede("train", "gan-mnist", f"data.path={pictures}", "train.images=20000")
    command += ["train.checkpoint_images=2000", "--out", str(run)]

    # Train, and be killed in the middle.
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    checkpoint = run / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < Checkpoint.load(checkpoint).images < 19_968

    # The same command goes on to the end.
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "goes on at" in again.stderr
    assert Checkpoint.load(checkpoint).images == 19_968

    # Beside the models that are there, the new one is served after the next start.
    export = ganymede("export", run, "--name", "mine", "--models", models)
    subprocess.run(export, check=True, capture_output=True)
    with serving(models) as server, server.client() as client:
        names = [card["name"] for card in client.get("/v1/models").json()["data"]]
        assert names == [*sorted(TINY), "mine"]
        body = {"model": "mine", "seed": 7}
        answer = client.post("/v1/generate", json=body, headers={"accept": "image/png"})
        assert answer.status_code == 200
        picture = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert picture.shape == (28, 28)
        assert picture.std() > 5
