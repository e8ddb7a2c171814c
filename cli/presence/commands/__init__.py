"""The verbs, a module each: DESCRIPTION, EXAMPLES, `add_arguments(parser)` and `run(context) -> exit code`."""
