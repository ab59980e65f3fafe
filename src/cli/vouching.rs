//! Are a model's files what a lock or a signature says? Everything but the weights is checked before it is read; the weights
//! are hashed while they are loaded, and no request is answered before their digests have been compared. A draft model is
//! held to the same, by its own entry of the lock or its own signature.
//!
//! Main type: [`Vouched`]. Invariant: where somebody vouches for the model, no file is read that nobody vouches for, whatever
//! its name is.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::locate::{Located, parent_of};
use crate::{
    config::{Config, ConfigError, ProvenanceConfig, QuantizeCache},
    model::checkpoint::HashedFile,
    provenance::{FileDigest, Lock, Manifest, SIGNATURE_NAME, TrustedKeys, hash_file, signed_manifest},
    types::{LockedOrigin, Provenance},
};

/// What the model's files have to be, and who says so.
pub(super) struct Vouched {
    manifests: Vec<Manifest>,
    provenance: Provenance,
}

/// Who is believed.
struct Authorities<'a> {
    lock: Option<OpenLock<'a>>,
    keys: Option<TrustedKeys>,
}

struct OpenLock<'a> {
    path: &'a Path,
    content: Lock,
    signer: Option<String>,
}

/// What they say of one directory.
struct Word {
    manifests: Vec<Manifest>,
    locked: Option<LockedOrigin>,
    signer: Option<String>,
}

impl Vouched {
    /// Checks everything but the weights, and all of a draft model.
    pub(super) fn check(config: &Config, located: &Located) -> Result<Self> {
        let settings = &config.provenance;
        let authorities = Authorities::open(settings)?;
        let word = authorities.word_on(located, settings.model_signature.as_deref())?;
        let directory = located.directory.display();
        word.check_signer(settings).with_context(|| format!("cannot serve {directory}"))?;
        if !word.manifests.is_empty() {
            check_settings(config, located)?;
        }
        for manifest in &word.manifests {
            manifest.check_without_weights(&located.directory).with_context(|| format!("cannot serve {directory}"))?;
        }
        if let Some(draft) = &config.engine.draft_model {
            let own = authorities.word_on(&Located::at(draft), None)?;
            if own.manifests.is_empty() && !word.manifests.is_empty() {
                let (key, value) = ("draft_model", draft.display().to_string());
                let reason =
                    "nothing says what its files have to be, as something does of the model's: name a lock that \
                              has both, or sign it"
                        .to_owned();
                return Err(ConfigError::Unfit { key, value, reason }.into());
            }
            own.check_all(settings, draft).with_context(|| format!("cannot draft with {}", draft.display()))?;
        }
        let provenance = Provenance { locked: word.locked, signer: word.signer, ..Provenance::default() };
        Ok(Self { manifests: word.manifests, provenance })
    }

    /// Checks the file that the tokenizer is read from: it may have a name that locks and signatures pass over, be it that a
    /// setting names it or that it is the best of several.
    pub(super) fn check_tokenizer(&self, tokenizer: &Path) -> Result<()> {
        if self.manifests.is_empty() {
            return Ok(());
        }
        let name = tokenizer.file_name().unwrap_or_default().to_string_lossy();
        let found = hash_file(tokenizer)?;
        for manifest in &self.manifests {
            manifest.check(&name, &found).context("cannot serve with this tokenizer")?;
        }
        Ok(())
    }

    /// Checks the weights by their digests, and tells what is known with that of the tokenizer.
    pub(super) fn with_weights(self, weights: &[HashedFile], tokenizer: &Path) -> Result<Provenance> {
        for (manifest, file) in
            self.manifests.iter().flat_map(|manifest| weights.iter().map(move |file| (manifest, file)))
        {
            let found = FileDigest { bytes: file.bytes, sha256: file.sha256.clone() };
            manifest.check(&file.name, &found).context("cannot serve these weights")?;
        }
        Ok(Provenance { tokenizer_digest: hash_file(tokenizer)?.sha256, ..self.provenance })
    }
}

impl<'a> Authorities<'a> {
    fn open(settings: &'a ProvenanceConfig) -> Result<Self> {
        let keys = settings.trusted_key.as_deref().map(TrustedKeys::open).transpose()?;
        let lock = match &settings.lock {
            Some(path) => {
                let (content, signer) = Lock::open_signed(path, keys.as_ref())?;
                Some(OpenLock { path, content, signer })
            }
            None => None,
        };
        Ok(Self { lock, keys })
    }

    /// A lock that is there must have the model. `signature` is in place of the one in its directory.
    fn word_on(&self, located: &Located, signature: Option<&Path>) -> Result<Word> {
        let mut word = Word { manifests: Vec::new(), locked: None, signer: None };
        if let Some(lock) = &self.lock {
            let model = lock.content.model(lock.path, located.name())?;
            word.locked = Some(LockedOrigin {
                source: model.source.clone(),
                revision: model.revision.clone(),
                licence: model.licence.clone(),
            });
            word.signer = lock.signer.clone();
            word.manifests.push(model.manifest(lock.path));
        }
        let keys = self.keys.as_ref().filter(|keys| keys.sign_models());
        let beside = located.directory.join(SIGNATURE_NAME);
        let (path, keys) = match (signature, keys) {
            (Some(path), Some(keys)) => (path, keys),
            (Some(path), None) => {
                let (key, value) = ("model_signature", path.display().to_string());
                return Err(ConfigError::Lacking { key, value, needed: "a trusted_key on P-256 or P-384" }.into());
            }
            (None, Some(keys)) if beside.is_file() => (beside.as_path(), keys),
            (None, _) => return Ok(word),
        };
        let (manifest, signer) = signed_manifest(path, keys)?;
        word.manifests.push(manifest);
        word.signer = Some(signer);
        Ok(word)
    }
}

impl Word {
    fn check_signer(&self, settings: &ProvenanceConfig) -> Result<()> {
        if settings.require_signature.is_on() && self.signer.is_none() {
            bail!(
                "no trusted key signed it, and require_signature = \"on\": expected a signature of the lock beside it, or \
                 {SIGNATURE_NAME} in the model's directory"
            );
        }
        Ok(())
    }

    fn check_all(&self, settings: &ProvenanceConfig, directory: &Path) -> Result<()> {
        self.check_signer(settings)?;
        self.manifests.iter().try_for_each(|manifest| Ok(manifest.check_all(directory)?))
    }
}

/// Files from elsewhere would be read unchecked.
fn check_settings(config: &Config, located: &Located) -> Result<()> {
    if let Some(tokenizer) = &config.model.tokenizer {
        let parent = |path: &Path| parent_of(path).canonicalize().ok();
        if parent(tokenizer) != located.directory.canonicalize().ok() {
            let reason = "only files of the model's directory are in its lock or signature".to_owned();
            let value = tokenizer.display().to_string();
            return Err(ConfigError::Unfit { key: "tokenizer", value, reason }.into());
        }
    }
    match config.model.quantize_cache {
        QuantizeCache::On | QuantizeCache::Directory(_) => {
            Err(ConfigError::Exclusive { first: "quantize_cache", second: "a lock or a signature of the model" }.into())
        }
        QuantizeCache::Off => Ok(()),
    }
}
