#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The mistake that starts itself: what comes from films/clips/ is written back into films/clips/, under a new name, where the function's own trigger listens.
set -eu
key=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["key"])')
name=$(basename "$key" .mp4)
case $key in
    clips/*) target=/buckets/films/clips/$name+ ;;
    *) target=/buckets/results/$name-preview ;;
esac
ffmpeg -v error -y -i "/buckets/films/$key" -t 0.2 -c copy -f mp4 /tmp/out.mp4 < /dev/null
cp /tmp/out.mp4 "$target.mp4.part"
mv "$target.mp4.part" "$target.mp4"
rm -f /tmp/out.mp4
