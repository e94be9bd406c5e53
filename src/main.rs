//! The command line's way into the library.

fn main() {}
