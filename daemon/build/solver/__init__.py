"""The build graph becomes layers: keys, cache, equal steps once, processes of RUN."""
