"""How the language model runs: one forward for all adapters, a paged cache, beam search on the device."""
