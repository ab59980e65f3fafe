//! Parses the command line, runs a subcommand, and turns its error into an exit code.

fn main() {}
