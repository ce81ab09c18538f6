#!/bin/sh
# Submits an image with nothing but jq and redis-cli, and prints its request id:
#   REDIS_URL=redis://localhost:6379/0 submit.sh https://host/image.png "its prompt"
set -eu
id=$(cat /proc/sys/kernel/random/uuid)
jq --null-input --compact-output --arg url "$1" --arg prompt "$2" --arg id "$id" \
  '{request_id: $id, image_url: $url, prompt: $prompt, submitted_at: (now | todate), version: "1.3"}' \
  | redis-cli -u "$REDIS_URL" -x LPUSH m3agiqa:inbox:3 >/dev/null
echo "$id"
