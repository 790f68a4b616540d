#!/usr/bin/env bash
# From a folder of images to an endpoint: check, prepare, train, export, measure.
#
#     examples/train_on_photos.sh photos/ my-photos
#     ganymede serve                    # then open http://127.0.0.1:3000/
#
# Further arguments change the recipe: train.images=300000, generator.width=64. An interrupted script
# goes on where it was when it is started again. SIDE is the side of the images in pixels, SAMPLES
# the number of images that are measured.
set -euo pipefail
photos=$1 name=$2
shift 2
side=${SIDE:-64}
work=runs/$name

# Reports corrupt files, duplicates and sizes, and writes squares of the same size. One image in ten
# is held out, so that the quality is measured on images that the generator has not seen.
if [ ! -e "$work/data.zip" ]; then
  ganymede data "$photos" --out "$work/data.zip" --resolution "$side" --deduplicate exact \
    --split train=0.9,test=0.1
fi

# Adaptive augmentation (ADA) keeps the discriminator from memorizing a small data set. The samples
# during training are in $work/run/samples.
ganymede train dcgan-fashion --out "$work/run" \
  data.path="$work/data.zip" data.resolution="$side" data.channels=3 data.flip=true \
  game.augment='{kind: ada}' "$@"

# Writes models/$name/1, after comparing the graphs with PyTorch.
ganymede export "$work/run" --name "$name"

# Writes the figures to the model card, and a report with the nearest real images.
ganymede evaluate "$name" --data "$work/data.zip" --samples "${SAMPLES:-2000}" --record \
  --report "$work/quality.html"
