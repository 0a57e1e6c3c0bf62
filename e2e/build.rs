//! Turns the project's `proto/` into the client with which the harness calls the driver.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // Read at run time: two checkouts that share a target directory share this program.
    let proto = std::env::var("CARGO_MANIFEST_DIR")? + "/../proto";
    println_rerun(&proto);
    let files = protox::compile(["csi/v1/csi.proto"], [&proto])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the interface of a build script to Cargo")]
fn println_rerun(path: &str) {
    println!("cargo::rerun-if-changed={path}");
}
