"""Decodes strangers' images in processes of their own: `pool` shares them out, `process` starts, asks and ends one, and
`child` runs in it.

A decoder that hangs, grows or dies costs the worker the image it was decoding, and nothing else.
"""
