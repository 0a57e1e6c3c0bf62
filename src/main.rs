//! The `ovl` binary.

fn main() {}
