"""What researchers need: data sets, metrics, descriptions from a teacher, heads and adapters."""
