"""A folder to work in, for those who installed the package without the repository.

`files` holds Snakefile, config.yaml, workflow/ and envs/: in the repository as links to where they lie, in an installed package as copies.
"""
