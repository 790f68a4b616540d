#!/usr/bin/env python3
"""A Ray job: all nodes of a cluster write a labeled data set, and Ray Data reads it again.

On a cluster whose nodes have Ganymede with the extras `ray` and `parquet`, and can write OUT:

    ray job submit --address http://HEAD:8265 --working-dir . -- \
        python examples/ray_job.py --count 1000000 --out s3://bucket/flowers

Without a cluster, Ray starts one on this machine:

    python examples/ray_job.py --count 500 --out data/flowers

If the job is interrupted, or nodes die, the same command goes on with the missing shards.
"""

import argparse
import io
import subprocess

import numpy as np
import ray
from PIL import Image


def brightness(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Decode the images of a batch, and return their classes and mean levels (0 to 255)."""
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in batch["image"]]
    return {"label": batch["label"], "level": np.array([image.mean() for image in images])}


def main() -> None:
    """Write the data set, and print a summary of each class."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="biggan-flowers", help="a model with classes")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--out", required=True, help="a folder or URL that all nodes can write")
    options = parser.parse_args()

    # Within `ray job submit`, this connects to the cluster of the job.
    ray.init(log_to_driver=False)
    address = ray.get_runtime_context().gcs_address

    # An actor with the model for each CPU or GPU. `balanced`: as many images of each class.
    command = ["ganymede", "sample", options.model, "--count", str(options.count)]
    command += ["--classes", "balanced", "--format", "parquet", "--out", options.out]
    subprocess.run([*command, "--engine", "ray", "--address", address], check=True)

    # Any training on Ray can read the shards in the same way.
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.read_parquet(options.out, file_extensions=["parquet"])
    levels = dataset.map_batches(brightness, num_cpus=0.5).to_pandas()
    for label, rows in levels.groupby("label"):
        print(f"class {label}: {len(rows):,} images, mean level {rows['level'].mean():.1f}")


if __name__ == "__main__":
    main()
