import jax

# An accidental broadcast of [B] against [B, 1] is an error, not a slow wrong answer.
jax.config.update("jax_numpy_rank_promotion", "raise")
