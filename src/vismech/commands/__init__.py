"""The commands: arguments, sentences and exit codes, nothing else."""
