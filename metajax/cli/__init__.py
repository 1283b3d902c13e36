"""The command line; `commands.COMMANDS` lists the modules that are commands."""
