#!/usr/bin/env python3
"""Write the metrics of torch-fidelity for the random images and weights of the tests.

The tests compare with this file, so they do not need torch-fidelity or its dependency torchvision,
which does not exist for every build of PyTorch:

    pip install --no-deps torch-fidelity tqdm && python scripts/fidelity_oracle.py
"""

import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# Imported by torch-fidelity, but not used by the metrics below.
for part in ("", ".datasets", ".models", ".transforms", ".transforms.functional"):
    sys.modules.setdefault(f"torchvision{part}", MagicMock())

from tests.support.inception_weights import random_images, random_weights  # noqa: E402


def main() -> None:
    """Compute the metrics and write them."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        torch.save(random_weights(), path)
        network = FeatureExtractorInceptionV3(
            "random", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    features, logits = [], []
    for pixels in random_images():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        parts = [network(batch) for batch in images.split(8)]
        features.append(torch.cat([part[0] for part in parts]))
        logits.append(torch.cat([part[1] for part in parts]))
    generated, real = features
    fid = fid_statistics_to_metric(
        fid_features_to_statistics(generated), fid_features_to_statistics(real), verbose=False
    )
    kid = kid_features_to_metric(
        generated, real, kid_subsets=1, kid_subset_size=len(generated), verbose=False
    )
    figures = {
        **fid,
        **kid,
        **isc_features_to_metric(logits[0]),
        **prc_features_to_metric(generated, real, verbose=False),
        "first_features": [round(float(value), 7) for value in generated[0, :8]],
    }
    target = ROOT / "tests" / "training" / "evaluation" / "features" / "torch_fidelity.json"
    target.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
