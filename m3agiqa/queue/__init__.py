"""The protocol in Redis: the `inbox` producers write to, the `ledger` of what workers owe, `dead` letters."""
