"""Pictures of what a model spent on an input: the token grid that was chosen, tokens kept, merged and dropped."""
