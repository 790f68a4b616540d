#!/usr/bin/env bash
# From a checkpoint to an image: import it, serve it, fetch an image by its address.
#
#     examples/import_checkpoint.sh netG_epoch_24.pth my-faces
#
# Further arguments go to `ganymede import`, for example --license or --classes. Nothing in the file
# is executed.
set -euo pipefail
file=$1 name=$2
shift 2
port=${PORT:-3000}

# What the file contains, which format it has, and what its tensors do not determine. A property that
# is assumed, such as an activation, is listed with the option that changes it; --preview shows the
# plausible values as images.
ganymede import "$file" --explain "$@"
ganymede import "$file" --name "$name" "$@"

# Starts the service, and stops it at the end of this script.
ganymede serve --port "$port" --processes 1 &
service=$!
trap 'kill $service; wait $service' EXIT
until curl -fsS --silent "http://127.0.0.1:$port/readyz" >/dev/null 2>&1; do
  kill -0 $service   # Ends the script if the service has ended.
  sleep 0.2
done

# Every image of the latent space has an address: the same seed gives the same bytes.
path="v1/models/$name/images/7.png"
# An image-to-image model has none: it takes images, at /v1/translate, /v1/upscale, …
curl -fsS "http://127.0.0.1:$port/$path" -o "$name-7.png"
echo "wrote $name-7.png, from http://127.0.0.1:$port/$path"
