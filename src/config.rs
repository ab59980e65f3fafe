//! Arguments as typed become a checked configuration.
