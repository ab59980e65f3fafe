//! Are a model's files what a lock or a signature says? Everything but the weights is checked before it is read; the weights
//! are hashed while they are loaded, and no request is answered before their digests have been compared.

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

impl Vouched {
    /// Checks everything but the weights.
    pub(super) fn check(config: &Config, located: &Located) -> Result<Self> {
        let settings = &config.provenance;
        let keys = settings.trusted_key.as_deref().map(TrustedKeys::open).transpose()?;
        let mut vouched = Self { manifests: Vec::new(), provenance: Provenance::default() };
        if let Some(path) = &settings.lock {
            vouched.take_lock(path, keys.as_ref(), config, located)?;
        }
        vouched.take_signature(settings, keys.as_ref(), &located.directory)?;
        let directory = located.directory.display();
        if settings.require_signature.is_on() && vouched.provenance.signer.is_none() {
            bail!(
                "cannot serve {directory}: no trusted key signed it, and require_signature = \"on\": expected a signature \
                 of the lock beside it, or {SIGNATURE_NAME} in the model's directory"
            );
        }
        if !vouched.manifests.is_empty() {
            check_settings(config, located)?;
        }
        for manifest in &vouched.manifests {
            manifest.check_without_weights(&located.directory).with_context(|| format!("cannot serve {directory}"))?;
        }
        Ok(vouched)
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

    fn take_lock(&mut self, path: &Path, keys: Option<&TrustedKeys>, config: &Config, located: &Located) -> Result<()> {
        let (lock, signer) = Lock::open_signed(path, keys)?;
        let model = lock.model(path, located.name())?;
        self.provenance.locked = Some(LockedOrigin {
            source: model.source.clone(),
            revision: model.revision.clone(),
            licence: model.licence.clone(),
        });
        self.provenance.signer = signer;
        self.manifests.push(model.manifest(path));
        if let Some(draft) = &config.engine.draft_model {
            let located = Located::at(draft);
            let manifest = lock.model(path, located.name())?.manifest(path);
            manifest.check_all(draft).with_context(|| format!("cannot draft with {}", draft.display()))?;
        }
        Ok(())
    }

    fn take_signature(
        &mut self,
        settings: &ProvenanceConfig,
        keys: Option<&TrustedKeys>,
        directory: &Path,
    ) -> Result<()> {
        let keys = keys.filter(|keys| keys.sign_models());
        let beside = directory.join(SIGNATURE_NAME);
        let path = match (&settings.model_signature, keys) {
            (Some(path), Some(_)) => path,
            (Some(path), None) => {
                let (key, value) = ("model_signature", path.display().to_string());
                return Err(ConfigError::Lacking { key, value, needed: "a trusted_key on P-256 or P-384" }.into());
            }
            (None, Some(_)) if beside.is_file() => &beside,
            (None, _) => return Ok(()),
        };
        let Some(keys) = keys else { return Ok(()) };
        let (manifest, signer) = signed_manifest(path, keys)?;
        self.manifests.push(manifest);
        self.provenance.signer = Some(signer);
        Ok(())
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
    match (&config.model.quantize_cache, &config.engine.draft_model, &config.provenance.lock) {
        (QuantizeCache::On | QuantizeCache::Directory(_), _, _) => {
            Err(ConfigError::Exclusive { first: "quantize_cache", second: "a lock or a signature of the model" }.into())
        }
        (QuantizeCache::Off, Some(draft), None) => {
            let (key, value) = ("draft_model", draft.display().to_string());
            let reason = "nothing says what its files have to be, while the model's are signed: name a lock".to_owned();
            Err(ConfigError::Unfit { key, value, reason }.into())
        }
        (QuantizeCache::Off, _, _) => Ok(()),
    }
}
