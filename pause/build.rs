//! Hands the linker arguments of `rustc-args.txt` to cargo, so that pause is linked the same here and in the daemon's build.

const LINK_ARGUMENT: &str = "-Clink-arg=";

fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=rustc-args.txt");
    for argument in std::fs::read_to_string("rustc-args.txt")?.lines().filter_map(|line| line.strip_prefix(LINK_ARGUMENT)) {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    Ok(())
}
