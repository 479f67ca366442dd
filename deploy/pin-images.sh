#!/bin/sh
# Writes deploy/images.env: which images deploy/compose.prod.yaml runs, by digest. A tag may be moved; a digest is
# what was tested. Needs docker with buildx, and a registry that has the shop's image.
#
#     sh deploy/pin-images.sh REGISTRY/eventshop:VERSION https://shop.example
set -eu
image=${1:?the image of the shop in a registry, like registry.example/eventshop:0.2.0}
issuer=${2:?the address of the shop, like https://shop.example}
here=$(dirname "$0")
digest() { # IMAGE
    found=$(docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}') || found=
    case $found in
    sha256:*) echo "$found" ;;
    *)
        echo "$0: there is no digest of $1: push it or log in to its registry; this needs docker with buildx" >&2
        return 1
        ;;
    esac
}
trap 'rm -f "$here/images.env.new"' EXIT
{
    pinned=$(digest "$image")
    echo "SHOP_IMAGE=${image%@*}@$pinned"
    sed -n 's/^ *image: \([^@]*\)@${\([A-Z]*_DIGEST\):.*/\2 \1/p' "$here/compose.prod.yaml" | sort -u |
        while read -r name tag; do
            pinned=$(digest "$tag")
            echo "$name=$pinned"
        done
    echo "SHOP_ISSUER=$issuer"
} > "$here/images.env.new"
mv "$here/images.env.new" "$here/images.env"
