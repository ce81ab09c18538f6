"""What we change in Celery and kombu, a file each, with why and the version it was seen in."""
