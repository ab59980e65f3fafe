//! Arguments as typed become a checked configuration.
//!
//! A setting has one name in three spellings: `--max-model-len`, `TRAMONTANE_MAX_MODEL_LEN`, and
//! `max_model_len` in the TOML file. [`Args`] holds what was typed, as text; [`Config::resolve`] lays file,
//! environment and flags over the defaults, in rising order of precedence, and parses each value once.
//! After that no value is unchecked and nothing that has a default is an `Option`.
//!
//! Knows nothing of models, engines or HTTP: it only names their limits.

mod args;
mod audit;
mod error;
mod layers;
#[cfg(test)]
mod tests;
mod units;
mod values;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use layers::Layers;

pub use args::{
    AccessArgs, Args, AuditArgs, DataArgs, EngineArgs, HttpArgs, LogArgs, ModelArgs, NetworkArgs, ProvenanceArgs,
    StorageArgs,
};
pub use audit::{AuditAnchor, AuditConfig, AuditMode, AuditOnFailure};
pub use error::ConfigError;
pub use layers::{Origin, Resolved};
pub use units::{ByteSize, Span};
pub use values::{
    ClientAuth, ContextLength, DeviceChoice, Dtype, LogFilter, LogFormat, MessageOrder, ModelName, Names, Quantize,
    QuantizeCache, SandboxChoice, Speculation, Switch, TemplateChoice, TokenizerVersion,
};

/// The model that is served when none is named.
pub const DEFAULT_MODEL: &str = "models/tiny";

/// Everything that can be set, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to serve.
    pub model: ModelConfig,
    /// How the engine shares memory and time.
    pub engine: EngineLimits,
    /// The HTTP server.
    pub http: HttpConfig,
    /// What is stored.
    pub storage: StorageConfig,
    /// Who is let in.
    pub access: AccessConfig,
    /// Which models are trusted.
    pub provenance: ProvenanceConfig,
    /// Does the server confine itself?
    pub sandbox: SandboxChoice,
    /// What is written down of what is done.
    pub audit: AuditConfig,
    /// Logs.
    pub log: LogConfig,
    resolved: Vec<Resolved>,
}

/// What to serve and how to read it.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Directory or hub id.
    pub model: ModelName,
    /// Names that requests may use; empty means the model's own.
    pub served_model_name: Names,
    /// What computes.
    pub device: DeviceChoice,
    /// Type of weights and activations.
    pub dtype: Dtype,
    /// Whether weights are quantized when they are loaded.
    pub quantize: Quantize,
    /// Where quantized weights are kept between starts.
    pub quantize_cache: QuantizeCache,
    /// Tokenizer file that replaces the checkpoint's own.
    pub tokenizer: Option<PathBuf>,
    /// Version of the prompt format in place of the one that the tokenizer file states.
    pub tokenizer_version: Option<TokenizerVersion>,
    /// Where the chat format comes from.
    pub template: TemplateChoice,
    /// Which conversations are accepted.
    pub message_order: MessageOrder,
    /// Never open an outbound connection.
    pub offline: Switch,
    /// Threads that compute.
    pub threads: usize,
}

/// How the engine shares memory and time among sequences.
#[derive(Clone, Debug)]
pub struct EngineLimits {
    /// Memory for keys and values.
    pub kv_cache: KvCache,
    /// Tokens per KV block.
    pub block_size: usize,
    /// Reuse the keys and values of equal prefixes.
    pub prefix_caching: Switch,
    /// Longest sequence, prompt and output.
    pub max_model_len: ContextLength,
    /// Sequences computed at once.
    pub max_running: usize,
    /// Requests admitted beyond `max_running`, whether they wait or run; one more is refused to a
    /// tenant that has its part.
    pub max_waiting: usize,
    /// Query tokens per step.
    pub max_batched_tokens: usize,
    /// Whether tokens are guessed ahead.
    pub speculation: Speculation,
    /// Directory of the model that guesses them.
    pub draft_model: Option<PathBuf>,
}

/// How large the pool of keys and values is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCache {
    /// A share of the memory that is free once the weights are loaded.
    Automatic,
    /// This much memory.
    Memory(ByteSize),
    /// This many blocks.
    Blocks(usize),
}

/// The HTTP server's address and limits.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Address to listen on.
    pub bind: SocketAddr,
    /// Largest request body.
    pub body_limit: ByteSize,
    /// Longest time a request may take.
    pub request_timeout: Duration,
    /// Longest time that running requests get after a signal to stop; what still runs then is cut.
    pub drain_timeout: Duration,
    /// Names under which it may be asked for.
    pub allowed_host: Names,
    /// TLS, if it speaks that.
    pub tls: Option<TlsConfig>,
}

/// Files of TLS, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate and what leads from it to a known authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Certificates of clients, if they may show any.
    pub clients: Option<ClientCertificates>,
}

/// Which certificates of clients are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Who signs them.
    pub ca: PathBuf,
    /// Which were revoked.
    pub crl: Option<PathBuf>,
    /// Whether there must be one.
    pub auth: ClientAuth,
}

/// What is stored.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// Where.
    pub place: DataPlace,
    /// Age at which it is deleted.
    pub retention: Duration,
    /// Most of it.
    pub limit: ByteSize,
}

/// Where data is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlace {
    /// Nowhere but in memory.
    Memory,
    /// In the place that the platform has for a user's data.
    UserDirectory,
    /// In this directory.
    Directory(PathBuf),
}

/// Who is let in.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    /// Everybody, from wherever they reach the server.
    pub insecure_open: Switch,
    /// Issuers whose tokens are believed.
    pub identity_file: Option<PathBuf>,
    /// Policies in place of the built-in ones.
    pub policy_dir: Option<PathBuf>,
    /// What is checked of what is said.
    pub guardrails: Option<PathBuf>,
    /// What requests may be for.
    pub purposes: Option<PathBuf>,
}

/// Which models are trusted. What is required can be had: settings that contradict each other are refused.
#[derive(Clone, Debug)]
pub struct ProvenanceConfig {
    /// What the model's files must be.
    pub lock: Option<PathBuf>,
    /// Public keys whose signatures count.
    pub trusted_key: Option<PathBuf>,
    /// The model's signature in OpenSSF's format, if it is not where it usually is.
    pub model_signature: Option<PathBuf>,
    /// Serve no model that no trusted key has signed.
    pub require_signature: Switch,
}

/// What is logged, and how it looks.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// Level, or a filter by module.
    pub level: LogFilter,
}

/// Defaults that depend on the machine or the subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Cores that may be used.
    pub threads: usize,
    /// Level of logs.
    pub log_level: &'static str,
    /// A GPU will be used unless the CPU is asked for.
    pub gpu: bool,
}

impl Config {
    /// Lays file, environment and flags over the defaults and checks every value. `matches` tells flags from
    /// environment variables.
    pub fn resolve(args: &Args, matches: &clap::ArgMatches, defaults: &Defaults) -> Result<Config, ConfigError> {
        let mut layers = Layers::new(args, matches)?;
        let name = layers.take("model", ModelName::from_text(DEFAULT_MODEL))?;
        let served_model_name = layers.take("served_model_name", Names::default())?;
        let (device, dtype, quantize) = how_to_compute(&mut layers)?;
        let quantize_cache = quantize_cache(&mut layers, quantize)?;
        let model = ModelConfig {
            model: name,
            served_model_name,
            device,
            dtype,
            quantize,
            quantize_cache,
            tokenizer: layers.take_optional("tokenizer", "that of the checkpoint")?,
            tokenizer_version: layers.take_optional("tokenizer_version", "the one that the tokenizer states")?,
            template: layers.take("template", TemplateChoice::Auto)?,
            message_order: layers.take("message_order", MessageOrder::Lenient)?,
            offline: layers.take("offline", Switch::Off)?,
            threads: layers
                .take_where("threads", defaults.threads, "between 1 and 1024", |n| (1..=1024).contains(n))?,
        };
        let on_gpu = match model.device {
            DeviceChoice::Auto => defaults.gpu,
            DeviceChoice::Cpu => false,
            DeviceChoice::Cuda(_) => true,
        };
        let engine = engine_limits(&mut layers, if on_gpu { &GPU_STEPS } else { &CPU_STEPS })?;
        let http = http_config(&mut layers)?;
        let storage = storage_config(&mut layers)?;
        let access = AccessConfig {
            insecure_open: layers.take("insecure_open", Switch::Off)?,
            identity_file: layers.take_optional("identity_file", "no issuer's tokens are believed")?,
            policy_dir: layers.take_optional("policy_dir", "the built-in policies")?,
            guardrails: layers.take_optional("guardrails", "nothing that is said is checked")?,
            purposes: layers
                .take_optional("purposes", "a request may state any purpose, which only policies look at")?,
        };
        let provenance = provenance_config(&mut layers)?;
        let sandbox = layers.take("sandbox", SandboxChoice::Auto)?;
        let audit = AuditConfig::take(&mut layers, &storage.place)?;
        let log = LogConfig {
            format: layers.take("log_format", LogFormat::Auto)?,
            level: layers.take("log_level", LogFilter::from_level(defaults.log_level))?,
        };
        Ok(Config { model, engine, http, storage, access, provenance, sandbox, audit, log, resolved: layers.finish() })
    }

    /// Texts that somebody set, by their settings: among them are the paths and addresses of the configuration.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, String)> {
        let set = self.resolved.iter().filter(|setting| setting.origin != Origin::Default);
        set.filter_map(|setting| {
            let line = format!("value = {}", setting.value.as_ref().ok()?);
            let value = line.parse::<toml::Table>().ok()?.remove("value")?;
            Some((setting.key, value.as_str()?.to_owned()))
        })
    }

    /// The configuration as a TOML file, each line with the place its value came from.
    pub fn to_toml(&self) -> String {
        let mut text = format!("# tramontane {}: the configuration as resolved\n", env!("CARGO_PKG_VERSION"));
        for setting in &self.resolved {
            text.push_str(&setting.to_toml_line());
        }
        text
    }
}

/// What computes, in which type. The reference path is the CPU's in f32, so nothing else can be asked for beside it;
/// quantized weights are the CPU's.
fn how_to_compute(layers: &mut Layers) -> Result<(DeviceChoice, Dtype, Quantize), ConfigError> {
    let device = layers.take("device", DeviceChoice::Auto)?;
    let dtype = layers.take("dtype", Dtype::Auto)?;
    let quantize = layers.take("quantize", Quantize::None)?;
    let exclusive = |first, second| Err(ConfigError::Exclusive { first, second });
    match (layers.take("reference", Switch::Off)?, quantize, device, dtype) {
        (Switch::Off, Quantize::None, device, dtype) => Ok((device, dtype, quantize)),
        (Switch::Off, Quantize::Q8 | Quantize::Q4, DeviceChoice::Cuda(_), _) => exclusive("quantize", "device"),
        (Switch::Off, Quantize::Q8 | Quantize::Q4, DeviceChoice::Auto | DeviceChoice::Cpu, dtype) => {
            Ok((DeviceChoice::Cpu, dtype, quantize))
        }
        (Switch::On, _, DeviceChoice::Cuda(_), _) => exclusive("reference", "device"),
        (Switch::On, _, _, Dtype::Bf16 | Dtype::F16) => exclusive("reference", "dtype"),
        (Switch::On, Quantize::Q8 | Quantize::Q4, _, _) => exclusive("reference", "quantize"),
        (Switch::On, Quantize::None, DeviceChoice::Auto | DeviceChoice::Cpu, Dtype::Auto | Dtype::F32) => {
            Ok((DeviceChoice::Cpu, Dtype::F32, quantize))
        }
    }
}

/// Only quantized weights are kept.
fn quantize_cache(layers: &mut Layers, quantize: Quantize) -> Result<QuantizeCache, ConfigError> {
    let key = "quantize_cache";
    match (layers.take(key, QuantizeCache::Off)?, quantize) {
        (QuantizeCache::On, Quantize::None) => {
            Err(ConfigError::Lacking { key, value: "on".into(), needed: "quantize" })
        }
        (QuantizeCache::Directory(path), Quantize::None) => {
            Err(ConfigError::Lacking { key, value: path.display().to_string(), needed: "quantize" })
        }
        (cache, _) => Ok(cache),
    }
}

fn http_config(layers: &mut Layers) -> Result<HttpConfig, ConfigError> {
    let bind = layers.take("bind", SocketAddr::from(([127, 0, 0, 1], 8000)))?;
    let body_limit = layers.take_where("body_limit", ByteSize::mib(16), "between 1KiB and 1GiB", |size| {
        (1 << 10..=1 << 30).contains(&size.bytes())
    })?;
    let request_timeout = layers.take("request_timeout", Span::seconds(600))?;
    // As long as a request may take, so that by default none of them is cut.
    let drain_timeout = layers.take("drain_timeout", request_timeout)?;
    Ok(HttpConfig {
        bind,
        body_limit,
        request_timeout: request_timeout.into(),
        drain_timeout: drain_timeout.into(),
        allowed_host: layers.take("allowed_host", Names::default())?,
        tls: tls_config(layers)?,
    })
}

fn tls_config(layers: &mut Layers) -> Result<Option<TlsConfig>, ConfigError> {
    let lacking = |key, path: PathBuf, needed| ConfigError::Lacking { key, value: path.display().to_string(), needed };
    let cert: Option<PathBuf> = layers.take_optional("tls_cert", "no TLS")?;
    let key: Option<PathBuf> = layers.take_optional("tls_key", "no TLS")?;
    let ca: Option<PathBuf> = layers.take_optional("tls_client_ca", "clients show no certificate")?;
    let crl: Option<PathBuf> = layers.take_optional("tls_client_crl", "none of their certificates is revoked")?;
    let auth: Option<ClientAuth> = layers.take_optional("tls_client_auth", "required where there is tls_client_ca")?;
    let clients = match (ca, crl, auth) {
        (Some(ca), crl, auth) => Some(ClientCertificates { ca, crl, auth: auth.unwrap_or(ClientAuth::Required) }),
        (None, Some(crl), _) => return Err(lacking("tls_client_crl", crl, "tls_client_ca")),
        (None, None, Some(auth)) => {
            let value = auth.to_string();
            return Err(ConfigError::Lacking { key: "tls_client_auth", value, needed: "tls_client_ca" });
        }
        (None, None, None) => None,
    };
    match (cert, key, clients) {
        (Some(cert), Some(key), clients) => Ok(Some(TlsConfig { cert, key, clients })),
        (Some(cert), None, _) => Err(lacking("tls_cert", cert, "tls_key")),
        (None, Some(key), _) => Err(lacking("tls_key", key, "tls_cert")),
        (None, None, Some(clients)) => Err(lacking("tls_client_ca", clients.ca, "tls_cert")),
        (None, None, None) => Ok(None),
    }
}

fn storage_config(layers: &mut Layers) -> Result<StorageConfig, ConfigError> {
    let unset = "tramontane in the user's data directory, $XDG_DATA_HOME or ~/.local/share";
    let directory: Option<PathBuf> = layers.take_optional("data_dir", unset)?;
    let (place, limit) = match (layers.take("ephemeral", Switch::Off)?, directory) {
        (Switch::On, Some(_)) => return Err(ConfigError::Exclusive { first: "data_dir", second: "ephemeral" }),
        (Switch::On, None) => (DataPlace::Memory, ByteSize::mib(1 << 10)),
        (Switch::Off, Some(directory)) => (DataPlace::Directory(directory), ByteSize::mib(10 << 10)),
        (Switch::Off, None) => (DataPlace::UserDirectory, ByteSize::mib(10 << 10)),
    };
    let retention =
        layers.take_where("retention", Span::days(30), "a time between 1h and 3650d, such as 30d", |span| {
            (Span::seconds(3600).as_seconds()..=Span::days(3650).as_seconds()).contains(&span.as_seconds())
        })?;
    let limit = layers
        .take_where("storage_limit", limit, "a size of at least 1MiB, such as 10GiB", |size| size.bytes() >= 1 << 20)?;
    Ok(StorageConfig { place, retention: retention.into(), limit })
}

fn provenance_config(layers: &mut Layers) -> Result<ProvenanceConfig, ConfigError> {
    let lock: Option<PathBuf> = layers.take_optional("lock", "files are not checked against a lock")?;
    let require_lock = layers.take("require_lock", Switch::Off)?;
    let trusted_key: Option<PathBuf> = layers.take_optional("trusted_key", "no signature counts")?;
    let model_signature: Option<PathBuf> =
        layers.take_optional("model_signature", "model.sig in the model's directory, if there is one")?;
    let require_signature = layers.take("require_signature", Switch::Off)?;
    let lacking = |key, value: &str, needed| Err(ConfigError::Lacking { key, value: value.to_owned(), needed });
    match (&lock, &trusted_key, &model_signature) {
        (None, _, _) if require_lock.is_on() => lacking("require_lock", "on", "lock"),
        (_, None, _) if require_signature.is_on() => lacking("require_signature", "on", "trusted_key"),
        (_, None, Some(path)) => lacking("model_signature", &path.display().to_string(), "trusted_key"),
        _ => Ok(ProvenanceConfig { lock, trusted_key, model_signature, require_signature }),
    }
}

/// Defaults of what a step computes: a GPU reaches its speed with more.
struct Steps {
    max_running: usize,
    max_batched_tokens: usize,
}

const CPU_STEPS: Steps = Steps { max_running: 64, max_batched_tokens: 512 };
const GPU_STEPS: Steps = Steps { max_running: 256, max_batched_tokens: 2048 };

fn engine_limits(layers: &mut Layers, steps: &Steps) -> Result<EngineLimits, ConfigError> {
    let memory: Option<ByteSize> =
        layers.take_optional("kv_cache_memory", "a share of the memory left once the weights are loaded")?;
    let num_blocks: Option<usize> = layers.take_optional("num_blocks", "as many as kv_cache_memory holds")?;
    let kv_cache = match (memory, num_blocks) {
        (Some(_), Some(_)) => {
            return Err(ConfigError::Exclusive { first: "kv_cache_memory", second: "num_blocks" });
        }
        (Some(memory), None) => KvCache::Memory(memory),
        (None, Some(blocks)) => KvCache::Blocks(blocks),
        (None, None) => KvCache::Automatic,
    };
    let positive = |n: &usize| *n > 0;
    let limits = EngineLimits {
        kv_cache,
        block_size: layers
            .take_where("block_size", 16, "a power of two from 1 to 256", |n| n.is_power_of_two() && *n <= 256)?,
        prefix_caching: layers.take("prefix_caching", Switch::On)?,
        max_model_len: layers.take("max_model_len", ContextLength::Auto)?,
        max_running: layers.take_where("max_running", steps.max_running, "at least 1", positive)?,
        max_waiting: layers.take_where("max_waiting", 256, "at least 1", positive)?,
        max_batched_tokens: layers.take_where(
            "max_batched_tokens",
            steps.max_batched_tokens,
            "at least 1",
            positive,
        )?,
        speculation: layers.take("speculation", Speculation::Auto)?,
        draft_model: layers.take_optional("draft_model", "guesses repeat what a text has had before")?,
    };
    match &limits.draft_model {
        Some(model) if limits.speculation == Speculation::Off => Err(ConfigError::Lacking {
            key: "draft_model",
            value: model.display().to_string(),
            needed: "speculation = \"auto\"",
        }),
        _ => Ok(limits),
    }
}
