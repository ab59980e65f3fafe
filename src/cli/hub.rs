//! The hub: which files a checkpoint needs, fetching them into the cache that Python's `huggingface_hub`
//! shares, and checking each against the digest that the hub states. Listing, addresses and the cache's layout
//! are hf-hub's.
//!
//! Invariant: `refs/<revision>` is written only once every file has been checked, so a checkpoint that
//! [`Hub::cached`] finds is complete and was verified, or was put there by another program.

mod digest;
mod download;
mod plan;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder},
};

use zeroize::Zeroizing;

use super::{error::UsageError, locate::HubId};

pub(super) use plan::{Plan, RemoteFile, Weights};

/// Attempts at one file, each going on where the one before broke off.
const ATTEMPTS: usize = 4;

/// Told how a download goes.
pub(super) trait Watcher {
    /// The bar of one file.
    type Bar: hf_hub::api::Progress;
    /// A file's download begins.
    fn start(&self, file: &RemoteFile) -> Self::Bar;
    /// A file is in the cache and its digest is right; `fetched` is false if it was there before.
    fn checked(&self, file: &RemoteFile, fetched: bool);
}

/// The cache on this machine, and the address and credentials of the hub.
pub(super) struct Hub {
    cache: Cache,
    endpoint: String,
    token: Option<Zeroizing<String>>,
    agent: ureq::Agent,
}

impl Hub {
    /// Reads `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_TOKEN_PATH`. Opens no connection.
    pub(super) fn from_env() -> Result<Hub> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let cache = match variable("HF_HUB_CACHE") {
            Some(path) => Cache::new(path.into()),
            // hf-hub panics where there is neither.
            None if variable("HF_HOME").is_none() && std::env::home_dir().is_none() => {
                return Err(UsageError("there is no home directory for the cache: set HF_HOME".into()).into());
            }
            None => Cache::from_env(),
        };
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let token = variable("HF_TOKEN").or_else(|| match variable("HF_TOKEN_PATH") {
            Some(path) => fs::read_to_string(path).ok(),
            None => cache.token(),
        });
        let token = token.map(Zeroizing::new).map(|token| Zeroizing::new(token.trim().to_owned()));
        let token = token.filter(|token| !token.is_empty());
        if token.is_some() && !is_private(&endpoint) {
            let problem = "would send the access token unencrypted: use https";
            return Err(UsageError(format!("HF_ENDPOINT={endpoint} {problem}")).into());
        }
        Ok(Hub { cache, endpoint: endpoint.trim_end_matches('/').to_owned(), token, agent: download::agent() })
    }

    /// Its address.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The directory of a checkpoint that was fetched before, complete as far as its own index tells.
    pub(super) fn cached(&self, id: &HubId) -> Option<PathBuf> {
        let root = self.root(id);
        let commit = fs::read_to_string(root.join("refs").join(&id.revision)).ok();
        let commit = commit.as_deref().map_or(id.revision.as_str(), str::trim);
        let snapshot = root.join("snapshots").join(commit);
        plan::is_complete(&snapshot).then_some(snapshot)
    }

    /// Fetches what is missing, checks every file, and returns the checkpoint's directory.
    pub(super) fn pull(&self, id: &HubId, weights: Weights, watcher: &impl Watcher) -> Result<PathBuf> {
        let api = self.api()?;
        let plan = self.plan(&api, id, weights)?;
        let pinned = api.repo(self.repo(id, &plan.commit));
        let root = self.root(id);
        let snapshot = root.join("snapshots").join(&plan.commit);
        for file in &plan.files {
            let path = snapshot.join(&file.name);
            let present = path.exists() && file.digest.matches(&path)?;
            if !present {
                remove(&path)?;
                let blob = download::fetch(self, &pinned.url(&file.name), &root, file, &mut watcher.start(file))?;
                download::link(&snapshot, &file.name, &blob)?;
            }
            watcher.checked(file, !present);
        }
        self.cache.repo(self.repo(id, &id.revision)).create_ref(&plan.commit)?;
        Ok(snapshot)
    }

    fn plan(&self, api: &Api, id: &HubId, weights: Weights) -> Result<Plan> {
        let request = api.repo(self.repo(id, &id.revision)).info_request().query("blobs", "true");
        let answer = self.authorized(request).call().map_err(|error| self.refusal(&format!("{id}"), error))?;
        let listing = answer.into_json().with_context(|| format!("{id}: the hub's listing is not as expected"))?;
        Plan::new(listing, weights).with_context(|| format!("{id}"))
    }

    /// Only knows addresses and the listing, so it gets no token; see [`Hub::authorized`].
    fn api(&self) -> Result<Api> {
        let builder = ApiBuilder::from_cache(self.cache.clone()).with_endpoint(self.endpoint.clone()).with_token(None);
        Ok(builder.build()?)
    }

    fn authorized(&self, request: ureq::Request) -> ureq::Request {
        match &self.token {
            Some(token) => request.set("Authorization", &Zeroizing::new(format!("Bearer {}", token.as_str()))),
            None => request,
        }
    }

    fn repo(&self, id: &HubId, revision: &str) -> Repo {
        Repo::with_revision(id.repository.clone(), RepoType::Model, revision.to_owned())
    }

    fn root(&self, id: &HubId) -> PathBuf {
        self.cache.path().join(self.repo(id, &id.revision).folder_name())
    }

    /// Addresses of downloads carry signatures, so an error never repeats them.
    fn refusal(&self, subject: &str, error: ureq::Error) -> anyhow::Error {
        let token = if self.token.is_some() { "the token was not accepted" } else { "it needs a token in HF_TOKEN" };
        match error {
            ureq::Error::Status(401 | 403, _) => {
                anyhow!("{subject}: not there, or access was refused: {token}, or its terms were not accepted")
            }
            ureq::Error::Status(404, _) => anyhow!("{subject}: there is no such model, revision or file"),
            ureq::Error::Status(status, _) => anyhow!("{subject}: the hub answered with status {status}"),
            ureq::Error::Transport(error) => {
                anyhow!("{subject}: no answer from {} ({})", self.endpoint, error.kind())
            }
        }
    }
}

/// HTTPS, or plain HTTP that does not leave this machine.
fn is_private(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else { return endpoint.starts_with("https://") };
    let host = rest.split('/').next().unwrap_or(rest);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    ["localhost", "127.0.0.1", "[::1]"].contains(&host)
}

/// Deletes a file of the cache: the link in the snapshot and the blob it leads to.
fn remove(path: &Path) -> Result<()> {
    if let Ok(blob) = fs::canonicalize(path)
        && blob != path
    {
        fs::remove_file(&blob).with_context(|| format!("cannot delete {}", blob.display()))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", path.display()))
        }
        _ => Ok(()),
    }
}
