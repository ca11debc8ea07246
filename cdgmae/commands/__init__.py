"""Command groups, one module per stage; thin: parse, call the stage's function, print the result."""
