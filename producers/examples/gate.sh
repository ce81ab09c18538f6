#!/bin/sh
# Says what to do with an image, a URL or a file: accept, review, or reject. Needs m3agiqa-submit and jq:
#   M3AGIQA_REDIS_URL=redis://localhost:6379/0 gate.sh image.png "its prompt"
# An image that has no score within TIMEOUT_S seconds is accepted, or what OTHERWISE says.
set -eu
verdict=$(m3agiqa-submit one "$1" --prompt="$2" --wait "${TIMEOUT_S:-60}" --json) || true
case $(printf '%s' "$verdict" | jq --raw-output .status) in
scored) printf '%s' "$verdict" | jq --raw-output .decision ;;
*)
  printf 'no score: %s\n' "$(printf '%s' "$verdict" | jq --raw-output '.error.message // empty')" >&2
  echo "${OTHERWISE:-accept}"
  ;;
esac
