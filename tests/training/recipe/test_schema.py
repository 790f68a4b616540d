import pytest

from training.networks.options import DiscriminatorOptions, GeneratorOptions
from training.recipe.choices import kinds, union_tags
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe, shipped_recipes
from training.recipe.options import Options


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_has_name_and_summary(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary


def test_overrides_replace_recipe_values():
    recipe = load_recipe(
        "gan-mnist", ["train.images=20000", "data.path=/x", "game.loss=minimax", "data.flip=true"]
    )
    assert recipe.train.images == 20_000
    assert recipe.data.path == "/x"
    assert recipe.game.loss == "minimax"
    assert recipe.data.flip is True


def test_other_data_replace_what_the_recipe_says_about_its_own():
    own = load_recipe("dcgan-fashion", ["data.path=/photos/garden.zip"])
    assert own.summary == "Trained on garden.zip"
    assert load_recipe("dcgan-fashion").good_for
    assert own.good_for == ""
    assert (own.license, own.data.dataset_license, own.data.name) == ("unknown", "unknown", None)
    stated = load_recipe(
        "dcgan-fashion",
        ["data.path=x", "data.title=Garden", "data.license=CC0", "summary=Plants", "license=MIT"],
    )
    assert (stated.summary, stated.license, stated.data.dataset_license) == ("Plants", "MIT", "CC0")
    named = load_recipe("dcgan-fashion", ["data.name=mnist"])
    assert (named.summary, named.license) == ("Trained on MNIST", "unknown")
    source = load_recipe("cyclegan-flowers", ["source.path=sketches"])
    assert source.summary == "Trained on sketches and TensorFlow flower photos"
    assert source.data.name == "flowers"


def test_yaml_round_trip(tmp_path):
    recipe = load_recipe("dcgan-fashion", ["train.seed=3"])
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.imags=1", "train: unknown key 'imags'; did you mean 'images'"),
        ("trian.images=1", "unknown key 'trian'; did you mean 'train'"),
        ("generator.widht=8", "generator: unknown key 'widht'; did you mean 'width'"),
        ("generator.network=dcgna", "generator: .*dcgan"),
        ("game.loss=wassertein", "game.loss: .*minimax"),
        ("train.images=many", "train.images: .*integer"),
        ("train.images=0", "train.images: .*greater than 0"),
        ("train.images=3", "less than one turn"),
        ("game.discriminator_steps=100000", "less than one turn"),
        ("data.resolution=27", "DCGAN needs a side .* got 27"),
        ("optimizer.generator.betas=[1.5, 0.9]", "optimizer.generator.betas.*less than 1"),
        ("optimizer.generator.learning_rate=-1", "optimizer.generator.learning_rate: .*greater"),
        ("game.loss=hinge; game.real_target=0.9", "hinge has no target"),
        ("optimizer.generator.algorithm=sgd", "optimizer.generator: .*'adam'"),
        ("optimizer.generator.momentum=1", "optimizer.generator: unknown key 'momentum'"),
        ("game.augment={kind: ada, x: 1}", "game.augment: unknown key 'x'"),
        ("train.images", "expected key=value"),
        ("summary.x=1", "summary is a value"),
        ("data.channels=[", "data.channels: .* is not a YAML value"),
    ],
)
def test_invalid_override_gives_one_line_error_with_its_key(override, message):
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe("dcgan-fashion", override.split("; "))
    assert "\n" not in str(error.value)


def test_unknown_recipe_suggests_nearest_name():
    with pytest.raises(RecipeError, match="did you mean 'gan-mnist'"):
        load_recipe("gan-mnits")


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "just words"])
def test_rejects_files_that_are_not_recipes(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"bad\.yaml is not"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("game.task.foo=1", "game.task: unknown key 'foo'"),
        ("game.task.missing=[0.1, 2]", "game.task.missing.1: "),
        ("game.task.kind=sketchy", "game.task: .*'sketch'"),
        ("game.kind=solo", "game: .*'noise_to_image', .*'paired', .*'unpaired'"),
    ],
)
def test_error_locations_are_keys_of_the_recipe(override, message):
    with pytest.raises(RecipeError, match=f"^{message}"):
        load_recipe("inpaint-flowers", [override])


def test_no_recipe_key_is_a_union_tag():
    """Tags are removed from error locations, so a key of the same name would be lost."""
    keys = set()

    def collect(options):
        for name, value in options:
            keys.add(name)
            if isinstance(value, Options):
                collect(value)

    for name in shipped_recipes():
        collect(load_recipe(name))
    assert not keys & union_tags()


def test_declared_networks_are_registered():
    assert {"biggan", "mlp", "unet", "gated"} <= kinds(GeneratorOptions, "network").keys()
    assert "patchgan" in kinds(DiscriminatorOptions, "network")
