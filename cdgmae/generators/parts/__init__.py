"""Parts of a generator beside diffusers' own: condition projectors and first stages."""
