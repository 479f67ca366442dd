#!/bin/sh
# Writes deploy/images.env: which images deploy/compose.prod.yaml runs, by digest. A tag may be moved; a digest is
# what was tested. Needs docker with buildx, and a registry that has the shop's image.
#
#     sh deploy/pin-images.sh REGISTRY/eventshop:VERSION https://shop.example
set -eu
image=${1:?the image of the shop in a registry, like registry.example/eventshop:0.2.0}
issuer=${2:?the address of the shop, like https://shop.example}
here=$(dirname "$0")
digest() { docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}'; }
{
    echo "SHOP_IMAGE=${image%@*}@$(digest "$image")"
    sed -n 's/^ *image: \([^@]*\)@${\([A-Z]*_DIGEST\):.*/\2 \1/p' "$here/compose.prod.yaml" | sort -u |
        while read -r name tag; do echo "$name=$(digest "$tag")"; done
    echo "SHOP_ISSUER=$issuer"
} > "$here/images.env.new"
mv "$here/images.env.new" "$here/images.env"
