//! Turns `proto/` into Rust, without protoc.

#![allow(clippy::print_stdout)] // how a build script speaks to Cargo

use std::error::Error;

use protox::Compiler;

const FILES: [&str; 3] =
    ["csi/v1/csi.proto", "ovl/v1/local.proto", "pluginregistration/v1/api.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    tonic_prost_build::configure()
        .skip_debug(secret_messages(&compiler)?)
        // The kubelet is the only client there is of these; ours serve the tests.
        .client_mod_attribute("csi.v1", "#[cfg(test)]")
        .client_mod_attribute("pluginregistration", "#[cfg(test)]")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The messages with a field marked `csi_secret`. Without `Debug`, a line that would log one does not compile.
fn secret_messages(compiler: &Compiler) -> Result<Vec<String>, Box<dyn Error>> {
    let pool = compiler.descriptor_pool();
    let marker = pool.get_extension_by_name("csi.v1.csi_secret").ok_or("proto/ lost csi_secret")?;
    let secret = |message: &protox::prost_reflect::MessageDescriptor| {
        message.fields().any(|field| field.options().get_extension(&marker).as_bool() == Some(true))
    };
    Ok(pool.all_messages().filter(secret).map(|message| message.full_name().to_owned()).collect())
}
