"""Strangers' images are decoded in processes of their own: `pool` keeps them, `child` is what runs in one.

Neither a decoder that hangs, nor one that grows or dies, costs the worker more than the image it was at.
"""
