"""What the Snakefile asks of the configuration: plain functions per stage. Import-light: it runs whenever the workflow is parsed."""
