"""The one way out to the web, for addresses that strangers gave."""
