#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# An event that tells of a film in the bucket `films`: the film, 360 and 720 lines high, into the bucket `results`.
set -eu
key=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["key"])')
name=$(basename "$key" .mp4)
for lines in 360 720; do
    # A whole file under a name that no trigger listens to, then its own name: who reads the bucket never sees half a film.
    ffmpeg -v error -y -i "/buckets/films/$key" -vf "scale=-2:$lines" -c:v libx264 -preset ultrafast -threads 2 -c:a aac -f mp4 /tmp/out.mp4 < /dev/null
    cp /tmp/out.mp4 "/buckets/results/$name-${lines}p.mp4.part"
    mv "/buckets/results/$name-${lines}p.mp4.part" "/buckets/results/$name-${lines}p.mp4"
    echo "$key: ${lines}p written" >&2
done
rm -f /tmp/out.mp4
