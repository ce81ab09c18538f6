"""A teacher: a large model that somebody else runs, asked to explain human scores."""
