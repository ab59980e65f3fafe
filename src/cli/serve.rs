//! `tramontane serve`: loads one model and answers HTTP until told to stop.
//!
//! In this order: the checkpoint's metadata is checked, the data directory and the port are opened, the weights are read while
//! `/health/live` answers, requests are served. SIGTERM or SIGINT lets running requests finish within
//! `drain_timeout`; if some are cut then, the exit code is 1. A second signal ends the process at once.

use std::{net::SocketAddr, path::Path, process};

use anyhow::{Context, Result, bail};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use serde_json::{Value, json};
use tramontane_kernels::threads;

use super::{
    data,
    error::UsageError,
    issuers, loading,
    locate::{self, Network},
    policy,
    sandbox::Sandbox,
};
use crate::{
    api::{self, AppState, Door, Drained, Hosts, HttpLimits, ServedModel, StorageLimits, Tls, TlsError},
    config::{
        AccessArgs, Args, AuditArgs, AuditMode, AuditOnFailure, Config, ConfigError, EngineArgs, HttpArgs, ModelArgs,
        ProvenanceArgs, StorageArgs,
    },
    engine::EngineConfig,
    governance::{Actor, Governance, GuardrailFile, audit::Audit, purposes::PurposeFile},
    telemetry::logs::LogStyle,
    types::{Pooling, unix_seconds},
};

/// Threads for connections; computing has its own.
const IO_THREADS: usize = 2;
/// Exit code after a second signal: that of a process which SIGINT killed.
const INTERRUPTED: i32 = 130;

/// Load a model and answer HTTP requests
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
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
}

impl ServeArgs {
    pub(super) fn settings(&self) -> Args {
        let Self { model, engine, http, storage, access, provenance, audit } = self;
        Args {
            model: model.clone(),
            engine: engine.clone(),
            http: http.clone(),
            storage: storage.clone(),
            access: access.clone(),
            provenance: provenance.clone(),
            audit: audit.clone(),
            ..Args::default()
        }
    }

    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        let located = locate::checkpoint(&config.model, Network::Allowed, style)?;
        // It binds threads that are yet to be started, so it comes before there are any.
        let sandbox = Sandbox::enter(config, &located)?;
        let prepared = loading::prepare_located(config, located)?;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(IO_THREADS).on_thread_start(threads::answer_soon).enable_all().build()?;
        let result = runtime.block_on(serve(config, &sandbox, prepared, style));
        // Loading may still be under way, and nobody waits for its result any more.
        runtime.shutdown_background();
        result
    }
}

async fn serve(config: &Config, sandbox: &Sandbox, prepared: loading::Prepared, style: LogStyle) -> Result<()> {
    let stop = stop_signal()?;
    let (stores, governance) = (data::stores(&config.storage)?, data::governance(&config.storage.place)?);
    let audit = data::audit_of_server(config)?;
    let governance = data::with_captured(governance.with_audit(audit.clone()), config)?
        .with_policies(policy::load(config.access.policy_dir.as_deref())?)
        .with_issuers(issuers::open(config)?)
        .with_guardrails(guardrails(config.access.guardrails.as_deref())?)
        .with_purposes(purposes(config)?);
    let tls = tls(config, &governance)?;
    reload_rules(&governance, tls.clone())?;
    let let_in = check_openness(config, &governance)?;
    if governance.is_configured()? {
        audit.wake()?;
    }
    let details = json!({ "bind": config.http.bind.to_string(), "configuration": audit.configuration() });
    match (record(&audit, "server.start", details).await, config.audit.on_failure) {
        (Err(error), AuditOnFailure::Refuse) => return Err(error),
        (Err(_), AuditOnFailure::Continue) | (Ok(()), _) => {} // the log has said why
    }
    let state = AppState::governed(http_limits(config), stores, governance)
        .with_context(|| data::cannot_store(&config.storage))?;
    let bind = config.http.bind;
    state.set_hosts(Hosts::new(bind, config.http.allowed_host.as_slice()));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener = TcpListener::bind(bind).await.with_context(|| format!("cannot listen on bind = {bind}"))?;
    let address = listener.local_addr()?;
    sandbox.close()?;
    tracing::info!(%address, scheme, let_in, "listening; requests are answered once the model is loaded");
    let mut serving = tokio::spawn(api::serve(Door { listener, tls }, state.clone(), async {
        // The sender lives as long as the process.
        let _ = stop.await;
    }));
    let loading = tokio::task::spawn_blocking(move || prepared.load(style));
    let drained = tokio::select! {
        drained = &mut serving => drained,
        model = loading => {
            let model = model??;
            let codec = model.codec.clone();
            state.set_model(model);
            // Meanwhile requests are answered; the first that wants JSON or a call would have to wait for it.
            drop(tokio::task::spawn_blocking(move || {
                if let Err(reason) = codec.prepare_constraints() {
                    tracing::warn!(reason, "no answer can be given a form, such as JSON");
                }
            }));
            if let Some(model) = state.loaded_model() {
                announce(&format!("{scheme}://{address}"), address, model, style);
            }
            serving.await
        }
    };
    drop(record(&audit, "server.stop", json!(null)).await); // the log has said why not
    // It may take its time; a panic is logged where it happens.
    drop(tokio::task::spawn_blocking(move || audit.close()).await);
    report(drained?, config)
}

/// Writes down what the server does by itself.
async fn record(audit: &Audit, action: &str, details: Value) -> Result<()> {
    let act = json!({ "by": { "source": "server" }, "action": action, "details": details });
    Ok(audit.act(&act).await?)
}

fn http_limits(config: &Config) -> HttpLimits {
    let (http, engine) = (&config.http, &config.engine);
    HttpLimits {
        body_bytes: usize::try_from(http.body_limit.bytes()).unwrap_or(usize::MAX),
        request_timeout: http.request_timeout,
        drain_timeout: http.drain_timeout,
        max_requests: engine.max_running.saturating_add(engine.max_waiting),
        storage: StorageLimits {
            retention: config.storage.retention,
            answers_at_once: EngineConfig { max_running: engine.max_running, ..EngineConfig::default() }
                .max_background(),
            ..StorageLimits::default()
        },
        ..HttpLimits::default()
    }
}

/// Who is let in. Without a source of identities only this machine's users may reach the server, unless the operator has said
/// otherwise.
fn check_openness(config: &Config, governance: &Governance) -> Result<&'static str> {
    let bind = config.http.bind;
    if governance.is_configured()? {
        return Ok("whoever has a key, an issuer's token or a known certificate");
    }
    if bind.ip().is_loopback() {
        return Ok("whoever is on this machine: there are no keys");
    }
    if config.access.insecure_open.is_on() {
        tracing::warn!("there are no keys, so whoever reaches {bind} is let in, as insecure_open says");
        return Ok("everybody");
    }
    let reason = "other machines could reach it, and there are no API keys: make one with `tramontane keys create`, \
                  or say insecure_open to let everybody in";
    Err(ConfigError::Unfit { key: "bind", value: bind.to_string(), reason: reason.to_owned() }.into())
}

/// What clients have to speak, if it is TLS.
fn tls(config: &Config, governance: &Governance) -> Result<Option<Tls>> {
    let believes_clients = config.http.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    if governance.issuers().knows_certificates() && !believes_clients {
        let reason = "identity_file has client_certificates, which nobody can show without tls_client_ca";
        return Err(UsageError(reason.to_owned()).into());
    }
    let opened = config.http.tls.clone().map(Tls::open).transpose();
    opened.map_err(|error| match error {
        TlsError::Unreadable { .. } | TlsError::Unrecorded(_) => error.into(),
        TlsError::Exposed { .. } | TlsError::Invalid { .. } => UsageError(error.to_string()).into(),
    })
}

/// Those of a file, if there is one.
fn guardrails(file: Option<&Path>) -> Result<GuardrailFile> {
    let opened = file.map_or_else(|| Ok(GuardrailFile::default()), |file| GuardrailFile::open(file, api::paths()));
    Ok(opened.map_err(|error| UsageError(format!("guardrails: {error}")))?)
}

/// Those of a file, if there is one.
fn purposes(config: &Config) -> Result<PurposeFile> {
    let Some(file) = &config.access.purposes else { return Ok(PurposeFile::default()) };
    let purposes = PurposeFile::open(file, config.storage.retention);
    let purposes = purposes.map_err(|error| UsageError(format!("purposes: {error}")))?;
    if purposes.wants_audit() && config.audit.mode == AuditMode::Off {
        let reason = "purposes: capture = \"content\" keeps it in the audit log, which audit = off turns off";
        return Err(UsageError(reason.to_owned()).into());
    }
    Ok(purposes)
}

/// Reads policies, guardrails, purposes, identities and certificates again at every SIGHUP.
fn reload_rules(governance: &Governance, tls: Option<Tls>) -> Result<()> {
    let governance = governance.clone();
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let (governance, tls) = (governance.clone(), tls.clone());
            // It may take its time, and others have requests on this thread; a panic is logged where it happens.
            drop(tokio::task::spawn_blocking(move || reload(&governance, tls.as_ref())).await);
        }
    });
    Ok(())
}

fn reload(governance: &Governance, tls: Option<&Tls>) {
    let (administration, now) = (governance.administered_by(&Actor::Signal), unix_seconds());
    match administration.reload_policies(now) {
        Ok(()) => tracing::info!(digest = governance.policies().digest(), "the policies were read again"),
        Err(error) => tracing::error!(%error, "the policies are wrong, so those from before go on to apply"),
    }
    match administration.reload_guardrails(now) {
        Ok(()) => tracing::info!("the guardrails were read again"),
        Err(error) => tracing::error!(%error, "the guardrails are wrong, so those from before go on to apply"),
    }
    match administration.reload_purposes(now) {
        Ok(()) => tracing::info!("the purposes were read again"),
        Err(error) => tracing::error!(%error, "the purposes are wrong, so those from before go on to apply"),
    }
    match administration.reload_identities(now) {
        Ok(()) => tracing::info!("the identities were read again"),
        Err(error) => tracing::error!(%error, "the identities are wrong, so those from before go on to apply"),
    }
    match tls.map(|tls| tls.reload_as(&administration)) {
        None => {}
        Some(Ok(_)) => tracing::info!("certificates were read again"),
        Some(Err(error)) => tracing::error!(%error, "certificates are wrong, so those from before go on to apply"),
    }
}

/// Resolves at the first SIGTERM or SIGINT; the second ends the process.
fn stop_signal() -> Result<oneshot::Receiver<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (send, receive) = oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping: running requests may finish; a second signal ends them");
        // If nobody listens any more, the server has stopped already.
        let _ = send.send(());
        next().await;
        process::exit(INTERRUPTED);
    });
    Ok(receive)
}

fn announce(url: &str, address: SocketAddr, model: &ServedModel, style: LogStyle) {
    let (name, digest) = (model.name(), &model.digest);
    if style == LogStyle::Json {
        tracing::info!(%address, model = name, digest, "ready");
        return;
    }
    let [first, others @ ..] = model.names.as_slice() else { return };
    let aliases = if others.is_empty() { String::new() } else { format!(" (also {})", others.join(", ")) };
    let (path, body) = match (&model.pooling, model.engine.outputs().logits) {
        (_, true) => ("v1/chat/completions", r#""stream": true, "messages": [{"role": "user", "content": "Hello!"}]"#),
        (Pooling::Embedding { .. }, false) => ("v1/embeddings", r#""input": "Hello!""#),
        (Pooling::Classes { .. }, false) => ("classify", r#""input": "Hello!""#),
    };
    eprintln!(
        "\n{first}{aliases}, sha256 {digest}\nserved at {url}/v1, {} tokens of context. Try:\n\n\
         curl -N {url}/{path} -H 'Content-Type: application/json' \\\n  \
         -d '{{\"model\": \"{first}\", {body}}}'\n",
        model.max_model_len,
    );
}

/// Cut requests are a failure of this process, which its exit code must tell.
fn report(drained: Drained, config: &Config) -> Result<()> {
    match drained {
        Drained::Complete | Drained::TimedOut { connections: 0 } => {
            tracing::info!("stopped; every request was finished");
            Ok(())
        }
        Drained::TimedOut { connections } => {
            let drain_timeout = config.http.drain_timeout;
            bail!("stopped; drain_timeout = {drain_timeout:?} was over, so {connections} connections were cut")
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::config::{Defaults, LogArgs};

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        serve: ServeArgs,
        #[command(flatten)]
        log: LogArgs,
    }

    fn limits(line: &str) -> HttpLimits {
        let command = CommandLine::command().mut_args(|arg| arg.env(None));
        let matches = command.get_matches_from(std::iter::once("serve").chain(line.split_whitespace()));
        let CommandLine { serve, log } = CommandLine::from_arg_matches(&matches).expect("valid flags");
        let args = Args { log, ..serve.settings() };
        let config = Config::resolve(&args, &matches, &Defaults { threads: 1, log_level: "info", gpu: false });
        http_limits(&config.expect("valid settings"))
    }

    #[test]
    fn the_default_limits_are_those_of_the_default_settings() {
        assert_eq!(limits(""), HttpLimits::default());
    }

    #[test]
    fn batches_leave_most_places_to_others() {
        assert_eq!(limits("--max-running 8").storage.answers_at_once, 2);
        assert_eq!(limits("--max-running 1").storage.answers_at_once, 1);
        assert_eq!(limits("--retention 2d").storage.retention.as_secs(), 172_800);
    }

    #[test]
    fn running_requests_may_finish_unless_told_otherwise() {
        let seconds = |line| limits(line).drain_timeout.as_secs();
        assert_eq!(seconds("--request-timeout 5m"), 300);
        assert_eq!(seconds("--request-timeout 5m --drain-timeout 20s"), 20);
    }

    /// What `--help` says of `--max-waiting`.
    #[test]
    fn as_many_requests_are_handled_as_the_engine_admits() {
        assert_eq!(limits("--max-running 3 --max-waiting 4").max_requests, 7);
    }
}
