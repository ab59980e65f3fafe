//! Compiles every `kernels/<operator>/cuda.cu` for the CPU, with a C++20 compiler.

use std::path::{Path, PathBuf};

fn main() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = vec![PathBuf::from("emulation.cpp")];
    let mut operators: Vec<_> = std::fs::read_dir(&kernels).expect("the kernels folder").flatten().collect();
    operators.sort_by_key(|entry| entry.file_name());
    sources.extend(operators.iter().map(|entry| entry.path().join("cuda.cu")).filter(|source| source.exists()));
    for watched in sources.iter().map(PathBuf::as_path).chain([Path::new("emulation.h"), Path::new("../cuda"), Path::new("..")]) {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").include(".").include("../cuda").opt_level(2).warnings(false);
    build.flag("-xc++").flag("-U_FORTIFY_SOURCE").flag("-ffp-contract=off").flag("-fno-strict-aliasing");
    // Kernels register themselves: nothing else refers to them.
    build.link_lib_modifier("+whole-archive").files(sources).compile("tramontane_emulated_kernels");
}
