#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A video in, the same video 360 lines high out. The input is kept in a file, because some containers have their index at the end.
set -eu
cat > /tmp/in
ffmpeg -v error -y -i /tmp/in -vf scale=-2:360 -c:v libx264 -preset veryfast -threads 2 -c:a aac -movflags +frag_keyframe+empty_moov -f mp4 /tmp/out.mp4 < /dev/null
cat /tmp/out.mp4
rm -f /tmp/in /tmp/out.mp4
