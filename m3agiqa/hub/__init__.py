"""Turns a profile into folders and files on this disk, through one function: `resolve`.

files.py     which files a part (base, adapter, head) consists of, and the fingerprint of local ones
lock.py      what the hub's references were resolved to: commits, sizes, digests
client.py    the hub itself, through `huggingface_hub`, with every failure typed
resolving.py finds a profile's parts, locks them and fetches them
"""

from m3agiqa.hub.resolving import Part, Resolved, resolve

__all__ = ["Part", "Resolved", "resolve"]
