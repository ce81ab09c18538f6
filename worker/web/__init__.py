"""Requests to URLs that strangers gave: the only way in which a worker asks the web."""
