"""One small module per public data set: where its files are, and what has to be known to read them. docs/data/ has a page for each."""
