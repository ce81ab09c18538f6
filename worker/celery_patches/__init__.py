"""Changes to Celery and kombu: a file for each, with its reason and the version in which it was needed."""
