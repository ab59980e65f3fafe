//! Compiles every `kernels/<operator>/cuda.cu` for the CPU, with a C++20 compiler.
//!
//! `TRAMONTANE_EMULATION_SANITIZER` (`thread`, or `address,undefined`) makes the threads of a block threads of the
//! operating system, watched by that sanitizer. `scripts/check-kernels-sanitizers` sets it and links the sanitizer.

use std::path::{Path, PathBuf};

fn main() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = vec![PathBuf::from("emulation.cpp")];
    let mut operators: Vec<_> = std::fs::read_dir(&kernels).expect("the kernels folder").flatten().collect();
    operators.sort_by_key(|entry| entry.file_name());
    sources.extend(operators.iter().map(|entry| entry.path().join("cuda.cu")).filter(|source| source.exists()));
    for watched in
        sources.iter().map(PathBuf::as_path).chain([Path::new("emulation.h"), Path::new("../cuda"), Path::new("..")])
    {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").include(".").include("../cuda").opt_level(2).warnings(false);
    build.flag("-xc++").flag("-U_FORTIFY_SOURCE").flag("-ffp-contract=off").flag("-fno-strict-aliasing");
    println!("cargo:rerun-if-env-changed=TRAMONTANE_EMULATION_SANITIZER");
    if let Ok(sanitizer) = std::env::var("TRAMONTANE_EMULATION_SANITIZER") {
        build.define("EMULATE_WITH_THREADS", None).flag(format!("-fsanitize={sanitizer}")).flag("-g").opt_level(1);
    }
    // Kernels register themselves: nothing else refers to them.
    build.link_lib_modifier("+whole-archive").files(sources).compile("tramontane_emulated_kernels");
}
