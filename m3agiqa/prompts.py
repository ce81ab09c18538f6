"""Makes a stranger's prompt safe to stand inside the model's question.

What a prompt *says* cannot be neutralised: it stands in quotes, and scores of prompts that ask for a good mark are for
measuring. What it may not do is hide from whoever reads it what the model reads.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters but for tab, line feed and carriage return
    "\u202a-\u202e\u2066-\u2069"  # text that reads in another order than it stands in
    "\ufff9-\ufffb"  # annotations between invisible marks
    "\ud800-\udfff"  # halves of surrogate pairs
    "\U000e0000-\U000e007f"  # tags: ASCII that no font shows
    "]"
)


def neutralised(prompt: str) -> str:
    """`prompt` without the characters that nobody sees but the tokenizer; any other prompt comes back as it was."""
    return _UNSEEN.sub("", prompt)
