"""Decides what becomes of a generated image: REDIS_URL=redis://localhost:6379/0 python backend.py URL PROMPT"""

import os
import sys

from m3agiqa.errors import QueueFull, QueueUnavailable, ResultTimeout
from producers import Client

# A failed verdict says `review` or `accept`, as its policy has it, and never `reject`.
WHAT_TO_DO = {"accept": "show", "review": "hold for a moderator", "reject": "withdraw"}


def what_to_do(client: Client, image_url: str, prompt: str, timeout_s: float) -> str:
    try:
        request_id = client.submit(image_url=image_url, prompt=prompt)
        verdict = client.result(request_id, timeout=timeout_s)
    except (QueueFull, QueueUnavailable, ResultTimeout):
        # The image has no verdict yet. What holds for it until then is the platform's choice, not an error's.
        return WHAT_TO_DO["review"]
    return WHAT_TO_DO[verdict.decision]


with Client(os.environ["REDIS_URL"]) as connected:
    print(what_to_do(connected, sys.argv[1], sys.argv[2], timeout_s=60))
