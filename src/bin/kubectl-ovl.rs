//! The `kubectl-ovl` binary, which kubectl runs for `kubectl ovl`.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ovl::cli::kubectl::main()
}
