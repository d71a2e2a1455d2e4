"""Trees that no step made: images of the store and of registries, layouts, git repositories, URLs."""
