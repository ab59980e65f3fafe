//! The settings as typed: one field per setting, its name also the key of the TOML file. Values stay text
//! until [`super::Config::resolve`] parses them, so that flag, environment and file share one set of errors.

use std::path::PathBuf;

use serde::Serialize;

/// Every setting, absent where it was not typed. Serialises to a flat map, which is also the list of keys
/// that a configuration file may have.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Args {
    /// What to serve and how to read it.
    #[serde(flatten)]
    pub model: ModelArgs,
    /// How the engine shares memory and time.
    #[serde(flatten)]
    pub engine: EngineArgs,
    /// The HTTP server.
    #[serde(flatten)]
    pub http: HttpArgs,
    /// What is stored.
    #[serde(flatten)]
    pub storage: StorageArgs,
    /// Who is let in.
    #[serde(flatten)]
    pub access: AccessArgs,
    /// Which files are trusted.
    #[serde(flatten)]
    pub provenance: ProvenanceArgs,
    /// What is written down of what is done.
    #[serde(flatten)]
    pub audit: AuditArgs,
    /// Logs and the configuration itself.
    #[serde(flatten)]
    pub log: LogArgs,
}

/// What to serve and how to read it.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Directory of a checkpoint, or a hub id such as `mistralai/Mistral-7B-Instruct-v0.3[@revision]`
    /// [default: models/tiny]
    #[arg(env = "TRAMONTANE_MODEL", hide_env = true)]
    pub model: Option<String>,
    /// Names under which requests may ask for the model, separated by commas [default: the model's own]
    #[arg(long, env = "TRAMONTANE_SERVED_MODEL_NAME", hide_env = true, value_name = "NAME,..")]
    pub served_model_name: Option<String>,
    /// What computes: cpu, cuda or cuda:N, or auto (a GPU if there is one and this build has kernels for it, else
    /// the CPU) [default: auto]
    #[arg(long, env = "TRAMONTANE_DEVICE", hide_env = true)]
    pub device: Option<String>,
    /// Type of weights and activations: auto, f32, bf16 or f16 [default: auto]
    #[arg(long, env = "TRAMONTANE_DTYPE", hide_env = true)]
    pub dtype: Option<String>,
    /// Quantize weights as they are loaded, on the CPU: none, q8 (8.5 bits per weight of all products) or q4 (4.5, and
    /// 8.5 for the logits); a table of tokens of its own and what chooses experts keep their dtype [default: none]
    #[arg(long, env = "TRAMONTANE_QUANTIZE", hide_env = true)]
    pub quantize: Option<String>,
    /// Keep quantized weights on disk for the next start: off, on (a file beside the model) or a directory for such files
    /// [default: off]
    #[arg(long, env = "TRAMONTANE_QUANTIZE_CACHE", hide_env = true, value_name = "off|on|DIR")]
    pub quantize_cache: Option<String>,
    /// Compute on the CPU in f32, the path that a GPU's results are held against; slow, and exact
    #[arg(long, env = "TRAMONTANE_REFERENCE", hide_env = true, value_name = "on|off", num_args = 0..=1,
          require_equals = true, default_missing_value = "on")]
    pub reference: Option<String>,
    /// Tokenizer file that replaces the checkpoint's own; its name tells the format
    #[arg(long, env = "TRAMONTANE_TOKENIZER", hide_env = true, value_name = "FILE")]
    pub tokenizer: Option<String>,
    /// Version of the prompt format, v1 to v15, in place of the one that the tokenizer states
    #[arg(long, env = "TRAMONTANE_TOKENIZER_VERSION", hide_env = true, value_name = "VERSION")]
    pub tokenizer_version: Option<String>,
    /// Chat format: native (that of the tokenizer's version), jinja (the checkpoint's template) or auto
    /// (native where there is one) [default: auto]
    #[arg(long, env = "TRAMONTANE_TEMPLATE", hide_env = true)]
    pub template: Option<String>,

    /// Roles of a conversation: lenient (as mistral-common, which joins neighbours of one role) or strict (one system
    /// message at most, then user and assistant in turns)
    #[arg(long, env = "TRAMONTANE_MESSAGE_ORDER", hide_env = true, value_name = "lenient|strict")]
    pub message_order: Option<String>,
    /// May it connect to others?
    #[command(flatten)]
    #[serde(flatten)]
    pub network: NetworkArgs,
    /// Threads that compute [default: one per core]
    #[arg(long, env = "TRAMONTANE_THREADS", hide_env = true, value_name = "N")]
    pub threads: Option<String>,
}

/// Whether outbound connections may be opened.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
pub struct NetworkArgs {
    /// Never open an outbound connection (HF_HUB_OFFLINE=1 does the same)
    #[arg(long, env = "TRAMONTANE_OFFLINE", hide_env = true, value_name = "on|off", num_args = 0..=1,
          require_equals = true, default_missing_value = "on")]
    pub offline: Option<String>,
}

/// How the engine shares memory and time among sequences.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Memory for keys and values, such as 2GiB [default: a share of what the weights leave]
    #[arg(long, env = "TRAMONTANE_KV_CACHE_MEMORY", hide_env = true, value_name = "SIZE")]
    pub kv_cache_memory: Option<String>,
    /// Blocks of keys and values, in place of --kv-cache-memory
    #[arg(long, env = "TRAMONTANE_NUM_BLOCKS", hide_env = true, value_name = "N")]
    pub num_blocks: Option<String>,
    /// Tokens per block of keys and values [default: 16]
    #[arg(long, env = "TRAMONTANE_BLOCK_SIZE", hide_env = true, value_name = "TOKENS")]
    pub block_size: Option<String>,
    /// Reuse the keys and values of equal prefixes: on or off [default: on]
    #[arg(long, env = "TRAMONTANE_PREFIX_CACHING", hide_env = true, value_name = "on|off")]
    pub prefix_caching: Option<String>,
    /// Longest sequence, prompt and output, or auto [default: what the model allows and the memory holds]
    #[arg(long, env = "TRAMONTANE_MAX_MODEL_LEN", hide_env = true, value_name = "TOKENS")]
    pub max_model_len: Option<String>,
    /// Sequences computed at once [default: 64, on a GPU 256]
    #[arg(long, env = "TRAMONTANE_MAX_RUNNING", hide_env = true, value_name = "N", visible_alias = "max-num-seqs")]
    pub max_running: Option<String>,
    /// Requests admitted beyond --max-running, whether they wait or run; one more is refused to a tenant that has its part [default: 256]
    #[arg(long, env = "TRAMONTANE_MAX_WAITING", hide_env = true, value_name = "N")]
    pub max_waiting: Option<String>,
    /// Tokens computed per step, prompts and answers together [default: 512, on a GPU 2048]
    #[arg(long, env = "TRAMONTANE_MAX_BATCHED_TOKENS", hide_env = true, value_name = "TOKENS")]
    pub max_batched_tokens: Option<String>,
    /// Guess tokens ahead and compute several of an answer in one step, on the CPU: auto (while that makes answers
    /// faster; they are the same) or off [default: auto]
    #[arg(long, env = "TRAMONTANE_SPECULATION", hide_env = true, value_name = "auto|off")]
    pub speculation: Option<String>,
    /// Directory of a smaller model with the same vocabulary that guesses them, on the CPU [default: none, guesses
    /// repeat what a text has had before]
    #[arg(long, env = "TRAMONTANE_DRAFT_MODEL", hide_env = true, value_name = "DIR")]
    pub draft_model: Option<String>,
}

/// The HTTP server's address and limits.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "HTTP")]
pub struct HttpArgs {
    /// Address to listen on [default: 127.0.0.1:8000]
    #[arg(long, env = "TRAMONTANE_BIND", hide_env = true, value_name = "ADDR:PORT")]
    pub bind: Option<String>,
    /// Largest request body [default: 16MiB]
    #[arg(long, env = "TRAMONTANE_BODY_LIMIT", hide_env = true, value_name = "SIZE")]
    pub body_limit: Option<String>,
    /// Longest time a request may take [default: 10m]
    #[arg(long, env = "TRAMONTANE_REQUEST_TIMEOUT", hide_env = true, value_name = "TIME")]
    pub request_timeout: Option<String>,
    /// Longest time that running requests get after a signal to stop; if any is cut then, the exit code is 1
    /// [default: the request timeout]
    #[arg(long, env = "TRAMONTANE_DRAIN_TIMEOUT", hide_env = true, value_name = "TIME")]
    pub drain_timeout: Option<String>,
    /// Names under which the server may be asked for, beside this machine's own, separated by commas [default: any, but
    /// this machine's own alone while there are no identities]
    #[arg(long, env = "TRAMONTANE_ALLOWED_HOST", hide_env = true, value_name = "NAMES")]
    pub allowed_host: Option<String>,
    /// PEM file with the server's certificate and what leads from it to a known authority; turns TLS on
    #[arg(long, env = "TRAMONTANE_TLS_CERT", hide_env = true, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// PEM file with the key of that certificate, which others must not be able to read
    #[arg(long, env = "TRAMONTANE_TLS_KEY", hide_env = true, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// PEM file of the authorities that sign certificates of clients [default: clients show none]
    #[arg(long, env = "TRAMONTANE_TLS_CLIENT_CA", hide_env = true, value_name = "FILE")]
    pub tls_client_ca: Option<String>,
    /// PEM file of the authorities' revocation lists [default: none is revoked]
    #[arg(long, env = "TRAMONTANE_TLS_CLIENT_CRL", hide_env = true, value_name = "FILE")]
    pub tls_client_crl: Option<String>,
    /// Whether clients must show a certificate: required, or optional [default: required]
    #[arg(long, env = "TRAMONTANE_TLS_CLIENT_AUTH", hide_env = true, value_name = "WHEN")]
    pub tls_client_auth: Option<String>,
}

/// What is stored, where and for how long.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Storage")]
pub struct StorageArgs {
    /// Where it is stored.
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,
    /// Store nothing on disk: what clients leave is kept in memory, and gone at the end
    #[arg(long, env = "TRAMONTANE_EPHEMERAL", hide_env = true, value_name = "on|off", num_args = 0..=1,
          require_equals = true, default_missing_value = "on")]
    pub ephemeral: Option<String>,
    /// Age at which files, responses, conversations, and batches that have ended, are deleted [default: 30d]
    #[arg(long, env = "TRAMONTANE_RETENTION", hide_env = true, value_name = "TIME")]
    pub retention: Option<String>,
    /// Most that is stored [default: 10GiB, with --ephemeral 1GiB]
    #[arg(long, env = "TRAMONTANE_STORAGE_LIMIT", hide_env = true, value_name = "SIZE")]
    pub storage_limit: Option<String>,
}

/// Where data is kept; commands that govern a server have this too.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Storage")]
pub struct DataArgs {
    /// Directory of keys and tenants, and of what clients leave (files, batches, responses, conversations); one server at a
    /// time can use it [default: $XDG_DATA_HOME/tramontane or ~/.local/share/tramontane]
    #[arg(long, global = true, env = "TRAMONTANE_DATA_DIR", hide_env = true, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Write down what is done, in a log that shows every change of it (docs/audit.md): on, off, or auto (once there is a
    /// source of identities, unless nothing is stored on disk) [default: auto]
    #[arg(
        long,
        global = true,
        env = "TRAMONTANE_AUDIT",
        hide_env = true,
        value_name = "auto|on|off",
        help_heading = "Audit"
    )]
    pub audit: Option<String>,
    /// Directory of that log [default: audit in the data directory]
    #[arg(
        long,
        global = true,
        env = "TRAMONTANE_AUDIT_DIR",
        hide_env = true,
        value_name = "DIR",
        help_heading = "Audit"
    )]
    pub audit_dir: Option<String>,
}

/// How the server writes down what is done.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Audit")]
pub struct AuditArgs {
    /// What happens to requests while the audit log cannot be written: refuse, or continue without a record
    /// [default: refuse]
    #[arg(long, env = "TRAMONTANE_AUDIT_ON_FAILURE", hide_env = true, value_name = "refuse|continue")]
    pub audit_on_failure: Option<String>,
    /// Where its signed checkpoints go as well: stdout, a file, or a URL that takes each by POST [default: nowhere]
    #[arg(long, env = "TRAMONTANE_AUDIT_ANCHOR", hide_env = true, value_name = "stdout|FILE|URL")]
    pub audit_anchor: Option<String>,
    /// Age at which files of the audit log are removed, and what was captured [default: never]
    #[arg(long, env = "TRAMONTANE_AUDIT_RETENTION", hide_env = true, value_name = "TIME")]
    pub audit_retention: Option<String>,
    /// Size at which another file of the audit log is begun [default: 64MiB]
    #[arg(long, env = "TRAMONTANE_AUDIT_SEGMENT", hide_env = true, value_name = "SIZE")]
    pub audit_segment: Option<String>,
    /// Keep the tokens of prompts and answers beside the audit log: on or off [default: off]
    #[arg(long, env = "TRAMONTANE_AUDIT_CAPTURE", hide_env = true, value_name = "on|off", num_args = 0..=1,
          require_equals = true, default_missing_value = "on")]
    pub audit_capture: Option<String>,
}

/// Who is let in.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Listen on other addresses than the loopback ones although there is no key: whoever reaches the server is its user
    #[arg(long, env = "TRAMONTANE_INSECURE_OPEN", hide_env = true, value_name = "on|off", num_args = 0..=1,
          require_equals = true, default_missing_value = "on")]
    pub insecure_open: Option<String>,
    /// TOML file of issuers whose tokens are believed (docs/identity-providers.md) [default: none]
    #[arg(long, env = "TRAMONTANE_IDENTITY_FILE", hide_env = true, value_name = "FILE")]
    pub identity_file: Option<String>,
    /// Directory of Cedar policies (*.cedar) that say who may do what [default: the built-in ones, see `policy show`]
    #[arg(long, env = "TRAMONTANE_POLICY_DIR", hide_env = true, value_name = "DIR")]
    pub policy_dir: Option<String>,
    /// TOML file of guardrails that check what clients send and what is answered (docs/guardrails.md) [default: none]
    #[arg(long, env = "TRAMONTANE_GUARDRAILS", hide_env = true, value_name = "FILE")]
    pub guardrails: Option<String>,
    /// TOML file of the purposes that requests may have, and what is kept under each (docs/privacy.md) [default: none]
    #[arg(long, env = "TRAMONTANE_PURPOSES", hide_env = true, value_name = "FILE")]
    pub purposes: Option<String>,
}

/// Which models are trusted, and how little the server is.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Supply chain")]
pub struct ProvenanceArgs {
    /// Lock of models (docs/supply-chain.md): the model's files must be what it says [default: none]
    #[arg(long, env = "TRAMONTANE_LOCK", hide_env = true, value_name = "FILE")]
    pub lock: Option<String>,
    /// Serve no model without a lock
    #[arg(long, env = "TRAMONTANE_REQUIRE_LOCK", hide_env = true, value_name = "on|off", num_args = 0..=1,
          require_equals = true, default_missing_value = "on")]
    pub require_lock: Option<String>,
    /// PEM file of public keys whose signatures count: Ed25519 over the lock, ECDSA (P-256, P-384) over the model in OpenSSF's
    /// format [default: none]
    #[arg(long, env = "TRAMONTANE_TRUSTED_KEY", hide_env = true, value_name = "FILE")]
    pub trusted_key: Option<String>,
    /// Signature of the model in OpenSSF's format [default: model.sig in its directory, if there is one]
    #[arg(long, env = "TRAMONTANE_MODEL_SIGNATURE", hide_env = true, value_name = "FILE")]
    pub model_signature: Option<String>,
    /// Serve no model that no trusted key has signed
    #[arg(long, env = "TRAMONTANE_REQUIRE_SIGNATURE", hide_env = true, value_name = "on|off", num_args = 0..=1,
          require_equals = true, default_missing_value = "on")]
    pub require_signature: Option<String>,
    /// Keep the server from files, connections and programs that the configuration does not name: auto (as far as the system
    /// can), on (or fail) or off [default: auto]
    #[arg(long, env = "TRAMONTANE_SANDBOX", hide_env = true, value_name = "auto|on|off")]
    pub sandbox: Option<String>,
}

/// Logs and the configuration itself; every subcommand has these.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Configuration and logs")]
pub struct LogArgs {
    /// TOML file of settings, their names as in the flags with underscores
    #[arg(long, global = true, env = "TRAMONTANE_CONFIG", hide_env = true, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Print the configuration as resolved, with the origin of each value, and exit
    #[arg(long, global = true)]
    #[serde(skip)]
    pub print_config: bool,
    /// Logs for people (human), for machines (json), or by what standard error is (auto) [default: auto]
    #[arg(long, global = true, env = "TRAMONTANE_LOG_FORMAT", hide_env = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// error, warn, info, debug or trace, or a filter such as info,tramontane::engine=debug [default: info]
    #[arg(long, global = true, env = "TRAMONTANE_LOG_LEVEL", hide_env = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}
