"""Turns a profile into folders and files on this disk: `resolve` is the one door.

files.py     which files a part (base, adapter, head) consists of, and the fingerprint of local ones
lock.py      what the hub's references were resolved to: commits, sizes, digests
client.py    the hub itself, through `huggingface_hub`, with every failure typed
resolving.py the profile's parts, locked and fetched
"""

from m3agiqa.hub.resolving import Part, Resolved, resolve

__all__ = ["Part", "Resolved", "resolve"]
