"""GC in front of every optimizer of `torch.optim` and Optax: each is run, and docs/optimizers.md says how it went."""
