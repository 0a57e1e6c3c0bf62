//! The `kubectl-ovl` binary. kubectl runs it as the plugin `kubectl ovl`.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ovl::kubectl::main(std::env::args_os())
}
