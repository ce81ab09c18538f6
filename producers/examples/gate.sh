#!/bin/sh
# Says what to do with an image, a URL or a file: accept, review, or reject. Needs m3agiqa-submit and jq on the PATH:
#   M3AGIQA_REDIS_URL=redis://localhost:6379/0 gate.sh image.png "its prompt"
# An image that has no verdict within TIMEOUT_S seconds, because something of ours broke, is what OTHERWISE says: review,
# accept or reject. What is wrong with the call ends with 2, and says nothing on stdout.
set -u
case ${OTHERWISE:=review} in
accept | review | reject) ;;
*) echo "OTHERWISE must be accept, review or reject" >&2 && exit 2 ;;
esac
for command in m3agiqa-submit jq; do
  command -v "$command" >/dev/null || { echo "$command is not on the PATH" >&2 && exit 2; }
done
verdict=$(m3agiqa-submit one "$1" --prompt="$2" --wait "${TIMEOUT_S:-60}" --json)
[ $? -ne 2 ] || exit 2
decision=$(printf '%s' "$verdict" | jq --raw-output 'if .error.retryable then empty else .decision end' 2>/dev/null)
if [ -z "$decision" ]; then
  echo "no score: $(printf '%s' "$verdict" | jq --raw-output '.error.message // empty' 2>/dev/null)" >&2
fi
echo "${decision:-$OTHERWISE}"
