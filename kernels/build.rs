//! With the feature `cuda`: compiles every `<operator>/cuda.cu` to an image for all architectures.
//!
//! Needs nvcc, by `CUDA_HOME` or on the PATH; `scripts/cuda-toolkit.sh` installs one where there is none.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for A100 and its kin and for H100 and H200; what is later gets it from the intermediate code, which has
/// to know what launches from Hopper on rely on.
const TARGETS: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["CUDA_HOME", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut folders: Vec<_> = std::fs::read_dir(".").expect("the kernels folder").flatten().collect();
    folders.sort_by_key(|entry| entry.file_name());
    let mut images = String::from("pub(super) const IMAGES: &[&[u8]] = &[\n");
    for folder in folders.iter().map(|entry| entry.path()) {
        println!("cargo:rerun-if-changed={}", folder.display());
        let source = folder.join("cuda.cu");
        if source.exists() {
            let image = out.join(folder.file_name().expect("a folder")).with_extension("fatbin");
            compile(&source, &image);
            images += &format!("    include_bytes!({:?}),\n", image.display().to_string());
        }
    }
    images += "];\n";
    std::fs::write(out.join("images.rs"), images).expect("OUT_DIR can be written to");
}

fn compile(source: &Path, image: &Path) {
    let nvcc = match std::env::var_os("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin/nvcc"),
        None => PathBuf::from("nvcc"),
    };
    let mut command = Command::new(&nvcc);
    command.args(["-std=c++17", "-O3", "-Icuda", "-fatbin"]);
    command.args(TARGETS.map(|target| format!("-gencode={target}")));
    command.arg(source).arg("-o").arg(image);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(_) => panic!("{} does not compile", source.display()),
        Err(error) => panic!(
            "{} cannot be run ({error}): the feature `cuda` needs NVIDIA's compiler; \
             eval \"$(scripts/cuda-toolkit.sh)\" installs it and says where it is",
            nvcc.display()
        ),
    }
}
