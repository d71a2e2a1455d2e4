"""What builds keep between them: listed, pruned, collected by age and size."""
