"""Built-in composers."""
