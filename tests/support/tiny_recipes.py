"""Recipe overrides that make training take seconds."""

# The smallest networks that still have the recipe's architecture.
TINY = {
    "gan-mnist": ["generator.widths=[32]", "discriminator.widths=[16]", "train.images=640"],
    "dcgan-fashion": ["generator.width=8", "discriminator.width=8", "train.images=640"],
    "cgan-fashion": ["generator.width=8", "discriminator.width=8", "train.images=640"],
}
