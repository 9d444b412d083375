"""How a language model learns from texts alone; see `rove.pretraining.model`."""
