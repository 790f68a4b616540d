#!/usr/bin/env python3
"""Write what torch-fidelity says of the pictures and weights that the tests draw.

torch-fidelity asks for torchvision, which is not there for every build of PyTorch, so the tests
compare with the figures that this wrote, and need neither:

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
# torch-fidelity names it when it is imported, and uses nothing of it here.
for part in ("", ".datasets", ".models", ".transforms", ".transforms.functional"):
    sys.modules.setdefault(f"torchvision{part}", MagicMock())

from tests.support.inception_weights import drawn_pictures, drawn_weights  # noqa: E402


def main() -> None:
    """Measure and write."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        torch.save(drawn_weights(), path)
        network = FeatureExtractorInceptionV3(
            "drawn", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    features, logits = [], []
    for pixels in drawn_pictures():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        parts = [network(batch) for batch in images.split(8)]
        features.append(torch.cat([part[0] for part in parts]))
        logits.append(torch.cat([part[1] for part in parts]))
    made, real = features
    fid = fid_statistics_to_metric(
        fid_features_to_statistics(made), fid_features_to_statistics(real), verbose=False
    )
    kid = kid_features_to_metric(
        made, real, kid_subsets=1, kid_subset_size=len(made), verbose=False
    )
    figures = {
        **fid,
        **kid,
        **isc_features_to_metric(logits[0]),
        **prc_features_to_metric(made, real, verbose=False),
        "first_features": [round(float(value), 7) for value in made[0, :8]],
    }
    target = ROOT / "tests" / "training" / "evaluation" / "features" / "torch_fidelity.json"
    target.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
