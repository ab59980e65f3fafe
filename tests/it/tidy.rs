//! The repository's own rules, checked on its text: which layer may use which, what each operator's folder
//! holds, how long files are, and which words they may not contain.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The layers and what each may use besides itself. All may use `config`, `types` and `telemetry`; `cli`
/// wires the process together and may use everything.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("cli", &["api", "bench", "engine", "model", "governance", "retrieval", "prompt", "provenance", "store"]),
    ("api", &["engine", "governance", "retrieval", "prompt", "store"]),
    ("engine", &["model"]),
    ("model", &[]),
    ("governance", &[]),
    ("retrieval", &[]),
    ("prompt", &[]),
    ("provenance", &[]),
    ("store", &[]),
    ("bench", &["model"]),
    ("types", &[]),
    ("config", &[]),
];
const SHARED: [&str; 3] = ["config", "types", "telemetry"];

/// Folders of `kernels/` that hold what operators are made of.
const NO_OPERATORS: [&str; 3] = ["kernels/gpu", "kernels/machine", "kernels/simd"];

/// Operators that exist on devices alone, each with the reason it has no `cpu.rs`: the kernels are held against
/// `reference.rs` by `cuda_tests.rs`.
const DEVICE_ONLY: [(&str, &str); 2] = [
    ("kernels/expert_linear", "on the CPU each expert is a product of its own"),
    ("kernels/sampling", "on the CPU the engine's own sampler chooses, from the same definition"),
];

/// Files above 500 lines, each with the reason it is not split.
const LONG_FILES: [(&str, &str); 2] = [
    ("kernels/paged_attention/cpu/rows.rs", "one kernel: its tiles, masks and reductions are only understood together"),
    ("benches/gpu.rs", "one program: a benchmark is one file, and what is measured belongs to how"),
];
const LONG: usize = 500;

#[test]
fn imports_go_one_way() {
    let mut edges = BTreeSet::new();
    for path in rust_files(&root().join("src")) {
        let Some(layer) = layer_of(&path) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        for used in crate_paths(&text) {
            if used != layer && !may_use(&layer, &used) {
                edges.insert(format!("{}: {layer} -> {used}", relative(&path)));
            }
        }
    }
    assert!(edges.is_empty(), "imports against the direction of the layers: {edges:#?}");
}

#[test]
fn the_parser_of_imports_sees_every_form() {
    let text = "use crate::engine::Request;\nuse crate::{\n    api::{self, app}, // crate::comment\n    model as m,\n};\n\
                let x = crate::prompt::render();\n/// [`crate::doc::Link`]\npub(crate) fn f() {}\nuse crate::types;";
    let used: Vec<String> = crate_paths(text).into_iter().collect();
    assert_eq!(used, ["api", "engine", "model", "prompt", "types"]);
    assert!(may_use("api", "prompt") && may_use("engine", "types") && may_use("cli", "model"));
    assert!(may_use("api", "store") && !may_use("store", "api") && !may_use("engine", "store"));
    assert!(!may_use("prompt", "engine") && !may_use("model", "engine") && !may_use("engine", "api"));
    assert!(!may_use("api", "model") && !may_use("types", "engine") && !may_use("api", "cli"));
}

#[test]
fn the_scheduler_moves_integers() {
    let engine = root().join("src/engine");
    let mut paths = rust_files(&engine.join("scheduler"));
    assert!(paths.len() > 3, "{paths:?}");
    paths.extend(["scheduler.rs", "blocks.rs"].map(|name| engine.join(name)));
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("candle"), "{} mentions candle", relative(&path));
    }
}

#[test]
fn every_operator_has_its_reference_and_its_tests() {
    let mut missing = Vec::new();
    for entry in fs::read_dir(root().join("kernels")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("mod.rs").is_file() || NO_OPERATORS.contains(&relative(&folder).as_str()) {
            continue;
        }
        let device_only = DEVICE_ONLY.iter().any(|(path, _)| *path == relative(&folder));
        let (fast, tests) = if device_only { ("cuda.rs", "cuda_tests.rs") } else { ("cpu.rs", "tests.rs") };
        for file in ["mod.rs", "reference.rs", fast, tests] {
            if !folder.join(file).is_file() {
                missing.push(relative(&folder.join(file)));
            }
        }
    }
    assert!(missing.is_empty(), "operators without {missing:#?}");
    for (path, reason) in DEVICE_ONLY {
        let folder = root().join(path);
        assert!(!reason.is_empty() && !folder.join("cpu.rs").exists(), "{path} needs no place in DEVICE_ONLY any more");
    }
}

#[test]
fn files_stay_short() {
    let allowed: Vec<&str> = LONG_FILES.iter().map(|(path, _)| *path).collect();
    let mut long = Vec::new();
    for path in rust_files(&root()) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let name = relative(&path);
        if lines > LONG && !allowed.contains(&name.as_str()) {
            long.push(format!("{name}: {lines} lines"));
        }
    }
    assert!(long.is_empty(), "split these, or give a reason in LONG_FILES: {long:#?}");
    for (path, reason) in LONG_FILES {
        let text = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(text.lines().count() > LONG && !reason.is_empty(), "{path} needs no place in LONG_FILES any more");
    }
}

#[test]
fn modules_are_named_after_what_they_hold() {
    let vague = ["utils", "util", "helpers", "helper", "manager", "common", "misc"];
    let named: Vec<String> = rust_files(&root())
        .iter()
        .flat_map(|path| {
            path.strip_prefix(root())
                .unwrap()
                .with_extension("")
                .components()
                .map(|part| part.as_os_str().to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        })
        .filter(|name| vague.contains(&name.as_str()) || name.ends_with("_manager"))
        .collect();
    assert!(named.is_empty(), "vague module names: {named:?}");
}

#[test]
fn modules_say_what_they_are() {
    let silent: Vec<String> = rust_files(&root().join("src"))
        .into_iter()
        .chain(rust_files(&root().join("kernels")))
        .filter(|path| path.file_stem().is_some_and(|stem| stem != "tests"))
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .map(|path| relative(&path))
        .collect();
    assert!(silent.is_empty(), "files without a //! opening: {silent:#?}");
}

/// Clippy's `unwrap_used` covers the build at hand; this covers code behind features too.
#[test]
fn no_unwrap_outside_tests() {
    let mut found = Vec::new();
    for path in rust_files(&root().join("src")).into_iter().chain(rust_files(&root().join("kernels"))) {
        let is_test = |part: std::path::Component| {
            ["tests", "tests.rs", "cuda_tests.rs", "testing.rs", "benches"].iter().any(|name| part.as_os_str() == *name)
        };
        if path.components().any(is_test) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = without_comment(line);
            if line.contains(".unwrap()") {
                found.push(format!("{}:{}", relative(&path), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "unwrap() outside tests: {found:#?}");
}

/// Without `harness = false` cargo runs a benchmark as an empty set of tests, which succeeds.
#[test]
fn every_benchmark_is_run_by_criterion() {
    let mut missing = Vec::new();
    for package in [root(), root().join("kernels")] {
        let manifest: toml::Table = fs::read_to_string(package.join("Cargo.toml")).unwrap().parse().unwrap();
        let entries = manifest["bench"].as_array().unwrap();
        let benches = package.join("benches");
        for path in rust_files(&benches) {
            // A file, or a folder with a `main.rs`.
            let program = path.strip_prefix(&benches).unwrap().iter().next().unwrap();
            let name = Path::new(program).file_stem().unwrap_or_default().to_string_lossy();
            let is_its_entry = |entry: &&toml::Value| entry["name"].as_str() == Some(&name);
            let harness = entries.iter().find(is_its_entry).and_then(|entry| entry.get("harness")?.as_bool());
            if harness != Some(false) {
                missing.push(relative(&path));
            }
        }
    }
    assert!(missing.is_empty(), "benchmarks without [[bench]] and harness = false in Cargo.toml: {missing:#?}");
}

#[test]
fn no_path_of_one_machine() {
    // Spelled in two halves, so that this file passes its own test.
    let private = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let mut found = Vec::new();
    for path in text_files(&root()) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if private.iter().any(|prefix| line.contains(prefix)) {
                found.push(format!("{}:{}", relative(&path), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "absolute paths of some machine: {found:#?}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

/// `src/engine/scheduler.rs` is in `engine`; `src/lib.rs` and `src/main.rs` are in no layer.
fn layer_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = Path::new(inside.components().next()?.as_os_str()).with_extension("");
    let layer = first.to_string_lossy().into_owned();
    (layer != "lib" && layer != "main").then_some(layer)
}

fn may_use(layer: &str, used: &str) -> bool {
    let shared = SHARED.contains(&used) && layer != "types";
    shared || ALLOWED.iter().any(|(name, allowed)| *name == layer && allowed.contains(&used))
}

/// The first segment after `crate::` of every path in the code, comments left out.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| without_comment(line).to_owned() + "\n").collect();
    let mut used = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(group_heads(group)),
            None => used.extend(head(rest)),
        }
    }
    used
}

/// The first segment of every entry of a `{...}` group, whose opening brace has been read.
fn group_heads(text: &str) -> Vec<String> {
    let mut depth = 1;
    let mut entry_begins = true;
    let mut heads = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => entry_begins = true,
            c if entry_begins && !c.is_whitespace() => {
                heads.extend(head(&text[at..]));
                entry_begins = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// The identifier that `text` begins with; only modules count, and those are in lower case.
fn head(text: &str) -> Option<String> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let name = &text[..end];
    name.starts_with(|c: char| c.is_lowercase()).then(|| name.to_owned())
}

fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    text_files(folder).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

/// Every file of the repository that a person wrote, build output and model data left out.
fn text_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return files };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let skipped =
            ["target", "models", "shared"].contains(&name.as_str()) || (name.starts_with('.') && name != ".ci");
        if path.is_dir() && !skipped {
            files.extend(text_files(&path));
        } else if path.is_file() && ![".git", "Cargo.lock"].contains(&name.as_str()) {
            files.push(path);
        }
    }
    files.sort();
    files
}
