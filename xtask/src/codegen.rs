//! Generates podbox-proto's committed files from its `.proto`: the Rust code and the descriptor set that gRPC
//! reflection serves. Needs neither protoc nor a network, and the same input gives the same bytes.
//!
//! Knows nothing of CRI beyond where its files lie and which message holds secrets.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use protox::Compiler;

const PROTO: &str = "runtime/v1/api.proto";
const RUST: &str = "src/runtime.v1.rs";
const DESCRIPTOR: &str = "src/descriptor.bin";

/// Messages whose `Debug` podbox-proto writes by hand, since they carry credentials (`debug_redact` in the `.proto`).
const REDACTED: [&str; 1] = [".runtime.v1.AuthConfig"];

/// One generated file: where it belongs and what it must hold.
struct Generated {
    path: PathBuf,
    content: Vec<u8>,
}

/// Regenerates `proto/src/runtime.v1.rs` and `proto/src/descriptor.bin`. With `check` nothing is written; the first
/// file that differs from what would be written, or is missing, is an error that names it and the command to run.
pub fn run(check: bool) -> Result<()> {
    let proto_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let proto_dir = proto_dir.canonicalize().with_context(|| format!("find {}", proto_dir.display()))?;
    for file in generate(&proto_dir)? {
        if check {
            compare(&file)?;
        } else {
            fs::write(&file.path, &file.content).with_context(|| format!("write {}", file.path.display()))?;
        }
    }
    Ok(())
}

fn compare(file: &Generated) -> Result<()> {
    let path = file.path.display();
    let committed = fs::read(&file.path).with_context(|| format!("read {path}; run `cargo xtask codegen`"))?;
    if committed != file.content {
        bail!("{path} is not what {PROTO} generates; run `cargo xtask codegen` and commit the result");
    }
    Ok(())
}

fn generate(proto_dir: &Path) -> Result<[Generated; 2]> {
    let rust = Generated { path: proto_dir.join(RUST), content: rust(proto_dir)? };
    let descriptor = Generated { path: proto_dir.join(DESCRIPTOR), content: descriptor(proto_dir)? };
    Ok([rust, descriptor])
}

/// The descriptor set without comments and positions. Encoded by protox, because the round through prost-types would
/// lose options that prost-types does not know (`debug_redact`).
fn descriptor(proto_dir: &Path) -> Result<Vec<u8>> {
    Ok(compile(proto_dir, false)?.encode_file_descriptor_set())
}

/// Messages, enums, client and server, as the generator formats them.
fn rust(proto_dir: &Path) -> Result<Vec<u8>> {
    let mut files = compile(proto_dir, true)?.file_descriptor_set();
    // Section headings of the .proto would become documentation of whatever follows them.
    for location in files.file.iter_mut().filter_map(|file| file.source_code_info.as_mut()).flat_map(|s| &mut s.location) {
        location.leading_detached_comments.clear();
    }
    // The generator can only write into a directory.
    let out = tempfile::tempdir().context("make a directory for the generator")?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        // Ordered maps, so that equal messages encode to equal bytes.
        .btree_map(".")
        .skip_debug(REDACTED)
        .emit_rerun_if_changed(false)
        .compile_fds(files)
        .context("generate Rust from the descriptor")?;
    let path = out.path().join("runtime.v1.rs");
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

fn compile(proto_dir: &Path, comments: bool) -> Result<Compiler> {
    let mut compiler = Compiler::new([proto_dir]).with_context(|| format!("look in {}", proto_dir.display()))?;
    compiler.include_source_info(comments).include_imports(true);
    // protox's own Display leaves out where the fault is.
    compiler.open_file(PROTO).map_err(|fault| anyhow::anyhow!("{fault:?}")).with_context(|| format!("compile {PROTO}"))?;
    Ok(compiler)
}
