use std::path::Path;

use clap::{CommandFactory, FromArgMatches, Parser};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::{values::Setting, *};

/// What a subcommand with every setting looks like.
#[derive(Parser)]
struct Everything {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    provenance: ProvenanceArgs,
    #[command(flatten)]
    audit: AuditArgs,
    #[command(flatten)]
    log: LogArgs,
}

const DEFAULTS: Defaults = Defaults { threads: 2, log_level: "info", gpu: false };

fn resolve(line: &str) -> Result<Config, ConfigError> {
    // The environment of the test run must not leak in; tests of the environment run the binary.
    let command = Everything::command().mut_args(|arg| arg.env(None));
    let matches = command.get_matches_from(std::iter::once("tramontane").chain(line.split_whitespace()));
    let Everything { model, engine, http, storage, access, provenance, audit, log } =
        Everything::from_arg_matches(&matches).unwrap();
    Config::resolve(&Args { model, engine, http, storage, access, provenance, audit, log }, &matches, &DEFAULTS)
}

fn with_file(text: &str, line: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tramontane.toml");
    std::fs::write(&path, text).unwrap();
    resolve(&format!("--config {} {line}", path.display()))
}

/// The message, free of the temporary directory.
fn check_error(result: Result<Config, ConfigError>, expected: Expect) {
    let error = anyhow::Error::new(result.unwrap_err());
    let text = format!("{error:#}");
    let text = text.split(' ').map(|word| match Path::new(word.trim_matches(['(', ')', ':'])).file_name() {
        Some(name) if word.contains("tramontane.toml") => name.to_str().unwrap(),
        _ => word,
    });
    expected.assert_eq(&text.collect::<Vec<_>>().join(" "));
}

#[test]
fn defaults() {
    let version = env!("CARGO_PKG_VERSION");
    let text = resolve("").unwrap().to_toml().replace(version, "VERSION");
    expect![[r##"
        # tramontane VERSION: the configuration as resolved
        model = "models/tiny"                    # default
        served_model_name = []                   # default
        device = "auto"                          # default
        dtype = "auto"                           # default
        quantize = "none"                        # default
        reference = "off"                        # default
        quantize_cache = "off"                   # default
        # tokenizer is not set: that of the checkpoint
        # tokenizer_version is not set: the one that the tokenizer states
        template = "auto"                        # default
        message_order = "lenient"                # default
        offline = "off"                          # default
        threads = 2                              # default
        # kv_cache_memory is not set: a share of the memory left once the weights are loaded
        # num_blocks is not set: as many as kv_cache_memory holds
        block_size = 16                          # default
        prefix_caching = "on"                    # default
        max_model_len = "auto"                   # default
        max_running = 64                         # default
        max_waiting = 256                        # default
        max_batched_tokens = 512                 # default
        speculation = "auto"                     # default
        # draft_model is not set: guesses repeat what a text has had before
        bind = "127.0.0.1:8000"                  # default
        body_limit = "16MiB"                     # default
        request_timeout = "10m"                  # default
        drain_timeout = "10m"                    # default
        allowed_host = []                        # default
        # tls_cert is not set: no TLS
        # tls_key is not set: no TLS
        # tls_client_ca is not set: clients show no certificate
        # tls_client_crl is not set: none of their certificates is revoked
        # tls_client_auth is not set: required where there is tls_client_ca
        # data_dir is not set: tramontane in the user's data directory, $XDG_DATA_HOME or ~/.local/share
        ephemeral = "off"                        # default
        retention = "30d"                        # default
        storage_limit = "10GiB"                  # default
        insecure_open = "off"                    # default
        # identity_file is not set: no issuer's tokens are believed
        # policy_dir is not set: the built-in policies
        # guardrails is not set: nothing that is said is checked
        # purposes is not set: a request may state any purpose, which only policies look at
        # lock is not set: files are not checked against a lock
        require_lock = "off"                     # default
        # trusted_key is not set: no signature counts
        # model_signature is not set: model.sig in the model's directory, if there is one
        require_signature = "off"                # default
        sandbox = "auto"                         # default
        audit = "auto"                           # default
        # audit_dir is not set: audit in the data directory
        audit_on_failure = "refuse"              # default
        # audit_anchor is not set: checkpoints are in the audit log alone
        # audit_retention is not set: the audit log is kept for ever
        audit_segment = "64MiB"                  # default
        audit_capture = "off"                    # default
        log_format = "auto"                      # default
        log_level = "info"                       # default
    "##]]
    .assert_eq(&text);
}

#[test]
fn flags_win_over_the_file() {
    let file = "bind = \"0.0.0.0:9000\"\nblock_size = 32\nserved_model_name = [\"a\", \"b\"]\n";
    let config = with_file(file, "--bind [::1]:80 --offline some/model").unwrap();
    assert_eq!(config.http.bind.to_string(), "[::1]:80");
    assert_eq!(config.engine.block_size, 32);
    assert_eq!(config.model.served_model_name.as_slice(), ["a", "b"]);
    assert_eq!(config.model.model.as_str(), "some/model");
    assert!(config.model.offline.is_on());
    let text = config.to_toml();
    let origin_of = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{key} ="))).unwrap();
        line.rsplit("# ").next().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    assert_eq!(origin_of("bind"), "--bind");
    assert_eq!(origin_of("block_size"), "tramontane.toml");
    assert_eq!(origin_of("model"), "argument MODEL");
    assert_eq!(origin_of("dtype"), "default");
}

/// Reads the printed configuration as a file; returns which settings were set before.
fn check_reads_back(config: &Config) -> Vec<&'static str> {
    let printed = config.to_toml();
    let again = with_file(&printed, "").unwrap_or_else(|error| panic!("{error}\n{printed}"));
    let values = |config: &Config| config.resolved.iter().map(|s| (s.key, s.value.clone())).collect::<Vec<_>>();
    assert_eq!(values(&again), values(config));
    let is_set = |setting: &&Resolved| setting.origin != Origin::Default;
    config.resolved.iter().filter(is_set).map(|setting| setting.key).collect()
}

#[test]
fn the_reference_path_is_the_cpu_in_f32() {
    for flags in ["--reference", "--reference=on --device cpu --dtype f32"] {
        let config = resolve(flags).unwrap();
        assert_eq!((config.model.device, config.model.dtype), (DeviceChoice::Cpu, Dtype::F32), "{flags}");
    }
    let plain = resolve("--reference=off --device cuda:1 --dtype bf16").unwrap();
    assert_eq!((plain.model.device, plain.model.dtype), (DeviceChoice::Cuda(1), Dtype::Bf16));
    check_error(
        resolve("--reference --device cuda"),
        expect!["reference and device exclude each other: set one of them"],
    );
    check_error(
        resolve("--reference --dtype bf16"),
        expect!["reference and dtype exclude each other: set one of them"],
    );
}

#[test]
fn quantized_weights_are_the_cpus() {
    for flags in ["--quantize q4", "--quantize q4 --device cpu"] {
        let config = resolve(flags).unwrap();
        assert_eq!((config.model.device, config.model.quantize), (DeviceChoice::Cpu, Quantize::Q4), "{flags}");
    }
    assert_eq!(resolve("--quantize none --device cuda").unwrap().model.device, DeviceChoice::Cuda(0));
    check_error(
        resolve("--quantize q8 --device cuda"),
        expect!["quantize and device exclude each other: set one of them"],
    );
    check_error(
        resolve("--quantize q8 --reference"),
        expect!["reference and quantize exclude each other: set one of them"],
    );
    check_error(resolve("--quantize q5"), expect![[r#"quantize = "q5" (--quantize): expected none, q8 or q4"#]]);
}

#[test]
fn only_quantized_weights_are_kept() {
    let cache = |flags: &str| resolve(flags).unwrap().model.quantize_cache;
    assert_eq!(cache("--quantize q8"), QuantizeCache::Off);
    assert_eq!(cache("--quantize-cache off"), QuantizeCache::Off);
    assert_eq!(cache("--quantize q8 --quantize-cache on"), QuantizeCache::On);
    let directory = cache("--quantize q4 --quantize-cache ./on");
    assert_eq!(directory, QuantizeCache::Directory("./on".into()));
    check_reads_back(&resolve("--quantize q4 --quantize-cache ./on").unwrap());
    assert_eq!(
        with_file("quantize_cache = true\nquantize = \"q4\"", "").unwrap().model.quantize_cache,
        QuantizeCache::On
    );
    check_error(
        resolve("--quantize-cache on"),
        expect![[r#"quantize_cache = "on" is of no use without quantize: set both or neither"#]],
    );
    check_error(
        resolve("--quantize none --quantize-cache some/directory"),
        expect![[r#"quantize_cache = "some/directory" is of no use without quantize: set both or neither"#]],
    );
    check_error(
        with_file("quantize = \"q4\"\nquantize_cache = \" \"", ""),
        expect![[r#"quantize_cache = " " tramontane.toml expected off, on or a directory"#]],
    );
}

#[test]
fn what_is_printed_reads_back() {
    let defaults = resolve("").unwrap();
    assert_eq!(check_reads_back(&defaults), [""; 0]);
    let largest = usize::MAX;
    let odd = with_file(
        &format!(
            r#"
            model = "a \"model\"\nof two lines # and a comment"
            served_model_name = ["x y", "back\\slash", "quote\"s"]
            device = "cuda:3"
            dtype = "bfloat16"
            quantize = "none"
            quantize_cache = false
            reference = false
            tokenizer = 'C:\tokenizers # file.json'
            tokenizer_version = "v7"
            template = "jinja"
            message_order = "strict"
            offline = true
            threads = 7
            kv_cache_memory = "1536MiB"
            block_size = 256
            prefix_caching = false
            max_model_len = "{largest}"
            max_running = "{largest}"
            max_waiting = 1
            max_batched_tokens = 3
            speculation = "auto"
            draft_model = "models/small draft"
            bind = "localhost:0"
            body_limit = 1025
            request_timeout = "90s"
            drain_timeout = 0
            allowed_host = ["llm.example", "10.0.0.1"]
            tls_cert = "/etc/tramontane/server.pem"
            tls_key = "/etc/tramontane/server.key"
            tls_client_ca = "/etc/tramontane/clients.pem"
            tls_client_crl = "/etc/tramontane/clients.crl"
            tls_client_auth = "optional"
            data_dir = "/srv/a directory"
            retention = "36h"
            storage_limit = "3MiB"
            insecure_open = true
            identity_file = "/etc/tramontane/identities.toml"
            policy_dir = "/etc/tramontane/policies"
            guardrails = "/etc/tramontane/guardrails.toml"
            purposes = "/etc/tramontane/purposes.toml"
            lock = "/etc/tramontane/tramontane.lock"
            require_lock = true
            trusted_key = "/etc/tramontane/trusted.pem"
            model_signature = "model.sig"
            require_signature = "on"
            sandbox = "off"
            audit = "on"
            audit_dir = "/var/log/audit of tramontane"
            audit_on_failure = "continue"
            audit_anchor = "https://anchor.example/checkpoints?key=\"a\""
            audit_retention = "400d"
            audit_segment = "1MiB"
            audit_capture = true
            log_format = "json"
            log_level = "info,tramontane::engine=debug"
            "#
        ),
        "",
    );
    let mut set = check_reads_back(&odd.unwrap());
    let blocks = resolve(
        "--num-blocks 9 --bind [::1]:80 --max-model-len 2 --served-model-name a,b --drain-timeout 1ms --ephemeral",
    );
    set.extend(check_reads_back(&blocks.unwrap()));
    for setting in &defaults.resolved {
        assert!(set.contains(&setting.key), "this test leaves {} out", setting.key);
    }
}

#[test]
fn an_empty_list_of_names_is_that_of_the_model() {
    for file in ["served_model_name = []", "served_model_name = \"\""] {
        assert!(with_file(file, "").unwrap().model.served_model_name.as_slice().is_empty());
    }
    check_error(
        resolve("--served-model-name a,,b"),
        expect![[
            r#"served_model_name = "a,,b" (--served-model-name): expected names separated by commas, none of them blank"#
        ]],
    );
}

#[test]
fn running_requests_get_as_long_as_requests_may_take() {
    let drain = |line: &str| resolve(line).unwrap().http.drain_timeout.as_secs();
    assert_eq!(drain(""), 600);
    assert_eq!(drain("--request-timeout 1h"), 3600);
    assert_eq!(drain("--request-timeout 1h --drain-timeout 5s"), 5);
}

#[test]
fn errors_name_key_value_origin_and_what_would_be_right() {
    check_error(
        resolve("--bind 8000"),
        expect![[r#"bind = "8000" (--bind): expected an address and a port, such as 127.0.0.1:8000 or [::1]:8000"#]],
    );
    check_error(
        resolve("--block-size 24"),
        expect![[r#"block_size = "24" (--block-size): expected a power of two from 1 to 256"#]],
    );
    check_error(resolve("--max-running 0"), expect![[r#"max_running = "0" (--max-running): expected at least 1"#]]);
    check_error(
        resolve("--max-num-seqs many"),
        expect![[r#"max_running = "many" (--max-running): expected at least 1"#]],
    );
    check_error(resolve("--dtype int8"), expect![[r#"dtype = "int8" (--dtype): expected auto, f32, bf16 or f16"#]]);
    check_error(
        resolve("--kv-cache-memory 99999999TiB"),
        expect![[
            r#"kv_cache_memory = "99999999TiB" (--kv-cache-memory): expected a size above zero, such as 512MiB or 2GiB"#
        ]],
    );
    check_error(
        resolve("--request-timeout soon"),
        expect![[r#"request_timeout = "soon" (--request-timeout): expected a time, such as 30s, 10m or 1h"#]],
    );
    check_error(
        resolve("--log-level loud"),
        expect![[
            r#"log_level = "loud" (--log-level): expected error, warn, info, debug or trace, or a filter such as info,tramontane=debug"#
        ]],
    );
    check_error(
        resolve("--num-blocks 9 --kv-cache-memory 1GiB"),
        expect!["kv_cache_memory and num_blocks exclude each other: set one of them"],
    );
    check_error(
        resolve("--speculation always"),
        expect![[r#"speculation = "always" (--speculation): expected auto or off"#]],
    );
    check_error(
        resolve("--speculation off --draft-model small"),
        expect![[r#"draft_model = "small" is of no use without speculation = "auto": set both or neither"#]],
    );
}

#[test]
fn errors_in_the_file_name_the_file() {
    check_error(
        with_file("bnid = 1", ""),
        expect![
            "tramontane.toml has the unknown key `bnid`; known keys: allowed_host, audit, audit_anchor, audit_capture, audit_dir, audit_on_failure, audit_retention, audit_segment, bind, block_size, body_limit, data_dir, device, draft_model, drain_timeout, dtype, ephemeral, guardrails, identity_file, insecure_open, kv_cache_memory, lock, log_format, log_level, max_batched_tokens, max_model_len, max_running, max_waiting, message_order, model, model_signature, num_blocks, offline, policy_dir, prefix_caching, purposes, quantize, quantize_cache, reference, request_timeout, require_lock, require_signature, retention, sandbox, served_model_name, speculation, storage_limit, template, threads, tls_cert, tls_client_auth, tls_client_ca, tls_client_crl, tls_key, tokenizer, tokenizer_version, trusted_key"
        ],
    );
    check_error(
        with_file("[bind]\nport = 1", ""),
        expect![[
            r#"bind = "{ port = 1 }" tramontane.toml expected a string, a number, true or false, or a list of strings"#
        ]],
    );
    check_error(
        with_file("dtype = 16", ""),
        expect![[r#"dtype = "16" tramontane.toml expected auto, f32, bf16 or f16"#]],
    );
    check_error(
        with_file("\n\ndtype = ", ""),
        expect!["tramontane.toml, line 3: string values must be quoted, expected literal string"],
    );
    check_error(
        resolve("--config missing/tramontane.toml"),
        expect!["cannot read the configuration file tramontane.toml No such file or directory (os error 2)"],
    );
}

#[test]
fn sizes() {
    let check = |text: &str, expected: Option<u64>| {
        assert_eq!(<ByteSize as Setting>::parse(text).map(ByteSize::bytes), expected, "{text}");
    };
    check("512MiB", Some(512 << 20));
    check("2 gib", Some(2 << 30));
    check("2GB", Some(2_000_000_000));
    check("4096", Some(4096));
    check("1TiB", Some(1 << 40));
    check("0", None);
    check("-1", None);
    check("1.5GiB", None);
    check("GiB", None);
    check("16777216TiB", None);
    assert_eq!(ByteSize::new(1_572_864_000).human(), "1.46 GiB");
    assert_eq!(ByteSize::new(999).human(), "999 B");
}

#[test]
fn spans() {
    let check = |text: &str, expected: Option<u64>| {
        assert_eq!(
            <Span as Setting>::parse(text).map(|span| Duration::from(span).as_millis() as u64),
            expected,
            "{text}"
        );
    };
    check("30", Some(30_000));
    check("250ms", Some(250));
    check("10m", Some(600_000));
    check("1h", Some(3_600_000));
    check("", None);
    check("1d", Some(86_400_000));
    check("1w", None);
    check("-1s", None);
}

proptest! {
    #[test]
    fn sizes_read_back(bytes in 1u64..) {
        prop_assert_eq!(<ByteSize as Setting>::parse(&ByteSize::new(bytes).to_string()), Some(ByteSize::new(bytes)));
    }

    #[test]
    fn spans_read_back(ms in any::<u64>()) {
        let text = format!("{ms}ms");
        let span = <Span as Setting>::parse(&text).expect("fits");
        prop_assert_eq!(<Span as Setting>::parse(&span.to_string()), Some(span));
    }

    #[test]
    fn no_text_panics(text in ".*") {
        let _ = <ByteSize as Setting>::parse(&text);
        let _ = <Span as Setting>::parse(&text);
        let _ = <SocketAddr as Setting>::parse(&text);
        let _ = <LogFilter as Setting>::parse(&text);
    }
}

#[test]
fn data_is_kept_in_one_place() {
    let place = |line: &str| resolve(line).unwrap().storage.place;
    assert_eq!(place(""), DataPlace::UserDirectory);
    assert_eq!(place("--data-dir here"), DataPlace::Directory("here".into()));
    assert_eq!(place("--ephemeral"), DataPlace::Memory);
    assert_eq!(place("--ephemeral=off --data-dir here"), DataPlace::Directory("here".into()));
    check_error(
        resolve("--ephemeral --data-dir here"),
        expect!["data_dir and ephemeral exclude each other: set one of them"],
    );
    let limit = |line: &str| resolve(line).unwrap().storage.limit;
    assert_eq!((limit("").bytes(), limit("--ephemeral").bytes()), (10 << 30, 1 << 30));
    assert_eq!(limit("--ephemeral --storage-limit 2GiB").bytes(), 2 << 30);
    check_error(
        resolve("--retention 59m"),
        expect![[r#"retention = "59m" (--retention): expected a time between 1h and 3650d, such as 30d"#]],
    );
    assert_eq!(resolve("--retention 36h").unwrap().storage.retention.as_secs(), 36 * 3600);
}

#[test]
fn an_audit_log_lasts() {
    let audit = |line: &str| resolve(line).unwrap().audit;
    assert_eq!(audit("").anchor, None);
    assert_eq!(audit("--audit-anchor stdout").anchor, Some(AuditAnchor::Stdout));
    assert_eq!(audit("--audit-anchor a/file").anchor, Some(AuditAnchor::File("a/file".into())));
    let url = audit("--audit-anchor https://user:secret@anchor.example:8443/a?key=secret").anchor.unwrap();
    assert_eq!(url.name(), "anchor.example:8443");
    check_error(
        resolve("--audit-anchor ftp://anchor.example"),
        expect![[
            r#"audit_anchor = "ftp://anchor.example" (--audit-anchor): expected stdout, the path of a file, or a URL with http:// or https://"#
        ]],
    );
    check_error(
        resolve("--audit=on --ephemeral"),
        expect![[r#"audit = "on" is of no use without audit_dir, or a data_dir: set both or neither"#]],
    );
    assert_eq!(audit("--audit=on --ephemeral --audit-dir here").mode, AuditMode::On);
    assert_eq!(audit("--audit-retention 400d").retention.unwrap().as_secs(), 400 * 86_400);
    check_error(
        resolve("--audit-segment 1KiB"),
        expect![[r#"audit_segment = "1KiB" (--audit-segment): expected a size of at least 64KiB, such as 64MiB"#]],
    );
}
