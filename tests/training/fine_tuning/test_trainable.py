import torch

from service.runtime.models.manifest import read_manifest
from training.checkpoints import Checkpoint
from training.fine_tuning.trainable import read_trainable, write_trainable


def test_exported_weights_are_those_of_the_run(source_run, source_model):
    trainable = read_trainable(source_model, read_manifest(source_model))
    game = Checkpoint.load(source_run.checkpoint_path).game
    for name, expected in {**game["networks"], "average": game["average"]}.items():
        assert trainable.networks[name].keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(trainable.networks[name][key], tensor)
    assert trainable.recipe == source_run.recipe()


def test_shared_storage_is_written_once_for_each_name(tmp_path, source_model):
    shared = torch.arange(4.0)
    part = write_trainable(tmp_path, {"generator": {"a": shared, "b": shared[:2]}})
    manifest = read_manifest(source_model).model_copy(update={"trainable": part})
    networks = read_trainable(tmp_path, manifest).networks
    assert networks["generator"]["a"].tolist() == [0, 1, 2, 3]
    assert networks["generator"]["b"].tolist() == [0, 1]


def test_card_names_the_networks(source_model):
    card = (source_model / "README.md").read_text()
    assert "holds weights of generator, average, discriminator" in card
