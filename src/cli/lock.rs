//! `tramontane lock`: writes down which files a model consists of, checks and signs that.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{
    error::UsageError,
    locate::{self, HubId, Located, Network},
};
use crate::{
    config::{Config, ModelName},
    provenance::{Lock, LockedModel, Origin, TrustedKeys, sign},
    telemetry::logs::LogStyle,
};

/// Where the lock is unless told.
const DEFAULT_LOCK: &str = "tramontane.lock";

/// Write down which files models consist of, check them, and sign that
#[derive(Debug, clap::Args)]
pub(super) struct LockArgs {
    /// The lock
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_LOCK)]
    file: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: LockCommand,
}

#[derive(Debug, Subcommand)]
enum LockCommand {
    /// Hash all files of a model and put it into the lock
    Create {
        /// A directory, or the id of a model in the hub's cache
        model: String,
        /// Its licence [default: as its card states it]
        #[arg(long)]
        licence: Option<String>,
    },
    /// Are all files of a model what the lock says? Reads all of them
    Verify {
        /// A directory, or the id of a model in the hub's cache
        model: String,
        /// PEM file of public keys (Ed25519), one of which must have signed the lock
        #[arg(long, value_name = "FILE")]
        trusted_key: Option<PathBuf>,
    },
    /// Sign the lock; the signature is written beside it
    Sign {
        /// PEM file of an Ed25519 private key (PKCS#8)
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

impl LockArgs {
    pub(super) fn run(&self, config: &Config, style: LogStyle) -> Result<()> {
        match &self.command {
            LockCommand::Create { model, licence } => {
                let located = self.locate(config, model, style)?;
                let locked = put(&self.file, &located, licence.as_deref())?;
                self.tell(&locked, "locked", None)
            }
            LockCommand::Verify { model, trusted_key } => {
                let located = self.locate(config, model, style)?;
                let keys = trusted_key.as_deref().map(TrustedKeys::open).transpose()?;
                let (lock, signer) = Lock::open_signed(&self.file, keys.as_ref())?;
                if keys.is_some() && signer.is_none() {
                    return Err(UsageError(format!("{} has no signature beside it", self.file.display())).into());
                }
                let locked = lock.model(&self.file, located.name())?;
                locked.manifest(&self.file).check_all(&located.directory)?;
                self.tell(locked, "as locked", signer.as_deref())
            }
            LockCommand::Sign { key } => {
                Lock::open(&self.file)?; // nobody is to sign what says nothing
                let signature = sign(&self.file, key)?;
                let path = signature.display();
                super::print(&if self.json {
                    format!("{:#}\n", json!({ "signature": path.to_string() }))
                } else {
                    format!("{path}\n")
                })
            }
        }
    }

    fn locate(&self, config: &Config, model: &str, style: LogStyle) -> Result<Located> {
        let mut settings = config.model.clone();
        settings.model = ModelName::from_text(model);
        locate::checkpoint(&settings, Network::Forbidden, style)
    }

    fn tell(&self, model: &LockedModel, state: &str, signer: Option<&str>) -> Result<()> {
        let bytes: u64 = model.files.iter().map(|file| file.bytes).sum();
        if self.json {
            let value = json!({
                "model": model.name, "state": state, "source": model.source, "revision": model.revision,
                "licence": model.licence,
                "files": model.files.len(), "bytes": bytes, "signer": signer, "lock": self.file.display().to_string(),
            });
            return super::print(&format!("{value:#}\n"));
        }
        let signed = signer.map_or_else(String::new, |signer| format!(", signed by {signer}"));
        super::print(&format!("{}: {} files, {bytes} bytes, {state}{signed}\n", model.name, model.files.len()))
    }
}

/// Hashes a model's files and puts it into a lock, which is made if there is none.
pub(super) fn put(lock: &Path, located: &Located, licence: Option<&str>) -> Result<LockedModel> {
    let mut content = if lock.exists() { Lock::open(lock)? } else { Lock::default() };
    let origin = Origin { source: &located.source, revision: located.revision.as_deref(), licence };
    let model = LockedModel::of_directory(located.name(), origin, &located.directory)?;
    content.put(model.clone());
    content.write(lock)?;
    Ok(model)
}

/// Of a model that was just fetched.
pub(super) fn put_pulled(lock: &Path, id: &HubId, directory: &Path) -> Result<LockedModel> {
    put(lock, &Located::from_hub(id, directory.to_path_buf()), None)
}
