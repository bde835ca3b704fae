//! The client that attaches a terminal to the console of a running domain.
