//! The `ovl` binary. It calls the command line of the library and returns its exit code.

use std::process::ExitCode;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "`ovl` needs Linux. Other systems can have the kubectl plugin: cargo build --release --bin kubectl-ovl"
);

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ovl::cli::main()
}
