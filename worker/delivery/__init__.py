"""Delivers: a signed callback, or an object in S3."""
