"""The protocol in Redis: the `inbox` that producers write, the `ledger` of what workers owe, and `dead` letters."""
